"""Whether settings are those that a study was trained with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from flops_fit.command.trainer import deciding
from flops_fit.errors import ConfigError, StudyError
from flops_fit.laws.prediction import Prediction
from flops_fit.plan.experiment import Plan
from flops_fit.plan.rules import stored_rule
from flops_fit.plan.sweep import samples_per_step
from flops_fit.settings import BATCH_SIZE, Kind, Setting, SweepSettings, declared, plain
from flops_fit.signatures import first_name, with_targets
from flops_fit.store.folder import StudyFolder

BATCH = ("batch_size", "batch_rule")
"""Settings that say together how many samples a step has."""


def check_agreement(
    settings: SweepSettings, plan: Plan, folder: StudyFolder, prediction: Prediction
) -> None:
    """Raises `ConfigError` where the predicted run would be of another recipe than the study's."""
    same = BATCH if batches_agree(settings, plan, prediction) else ()
    differ = differences(settings, plan.settings, folder.pinned(), same)
    if differ:
        raise ConfigError(
            f"{folder.path} was trained with other settings: {'; '.join(differ)}. Give the same as "
            f"in its `train`, found in {folder.latest_plan_folder() / 'plan.json'}"
        )


def batches_agree(settings: SweepSettings, plan: Plan, prediction: Prediction) -> bool:
    """Whether batch size and rule, however they are given, make the steps that the study's do: of
    all its runs, and of the predicted one. Steps by rules that only code could tell are others."""
    if plan.settings is None:
        return False
    try:
        rules = [stored_rule(s.batch_rule, "batch_rule") for s in (settings, plan.settings)]
    except StudyError:
        return False
    sizes = [s.batch_size or BATCH_SIZE for s in (settings, plan.settings)]
    first = plan.experiments[0]
    tokens = first.batch_tokens / first.batch_size
    runs = [(e.num_params, e.num_tokens) for e in plan.experiments]
    return all(
        samples_per_step(sizes[0], rules[0], tokens, *run)
        == samples_per_step(sizes[1], rules[1], tokens, *run)
        for run in [*runs, (prediction.num_params, prediction.num_tokens)]
    )


def differences(
    ours: SweepSettings,
    theirs: SweepSettings | None,
    pinned: Mapping[str, Any],
    same: Collection[str] = (),
) -> list[str]:
    """Each setting on which a result depends and in which both differ, in words; not those that
    are the `same` in effect.

    A pinned setting differs where it is asked for and the study has pinned another.
    """
    if theirs is None:
        return []
    found = []
    for setting in (s for s in declared(SweepSettings) if s.name not in same):
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
