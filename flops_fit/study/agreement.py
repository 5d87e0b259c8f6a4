"""Whether settings are those that a study was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flops_fit.command.trainer import deciding
from flops_fit.errors import ConfigError
from flops_fit.plan.experiment import Plan
from flops_fit.settings import Kind, Setting, SweepSettings, declared, plain
from flops_fit.signatures import first_name, with_targets
from flops_fit.store.folder import StudyFolder


def check_agreement(settings: SweepSettings, plan: Plan, folder: StudyFolder) -> None:
    """Raises `ConfigError` where another recipe than the study's would be trained."""
    differ = differences(settings, plan.settings, folder.pinned())
    if differ:
        raise ConfigError(
            f"{folder.path} was trained with other settings: {'; '.join(differ)}. Give the same as "
            f"in its `train`, found in {folder.latest_plan_folder() / 'plan.json'}"
        )


def differences(
    ours: SweepSettings, theirs: SweepSettings | None, pinned: Mapping[str, Any]
) -> list[str]:
    """Each setting on which a result depends and in which both differ, in words.

    A pinned setting differs where it is asked for and the study has pinned another.
    """
    if theirs is None:
        return []
    found = []
    for setting in declared(SweepSettings):
        here, there = (leaves(setting.name, v) for v in both(setting, ours, theirs, pinned))
        changed = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        found += [
            f"{n} is {shown(there.get(n))} there and {shown(here.get(n))} here" for n in changed
        ]
    return found


def leaves(name: str, value: Any) -> dict[str, Any]:
    """Dotted name -> value of everything in a config node; of anything else itself."""
    if not isinstance(value, Mapping):
        return {name: value}
    entries = (leaves(f"{name}.{key}", item) for key, item in value.items())
    return {key: item for entry in entries for key, item in entry.items()}


def both(
    setting: Setting, ours: SweepSettings, theirs: SweepSettings, pinned: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Our value and theirs, as plain values that can be compared."""
    mine, other = (comparable(setting.name, s) for s in (ours, theirs))
    if setting.kind is Kind.DECIDES:
        return mine, other
    if setting.kind is Kind.PINNED and mine != setting.default:
        return mine, pinned.get(setting.name, other)
    return None, None


def comparable(name: str, settings: SweepSettings) -> Any:
    """A setting without what changes no result: where a class stands, a command's time limit."""
    value = with_targets(plain(settings)[name], first_name)
    return deciding(value) if name == "trainer" and value else value


def shown(value: Any) -> str:
    """A value in a message."""
    return "null" if value is None else f"{value}"
