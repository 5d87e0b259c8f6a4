"""The schema of the configs, made from the declared settings, for Hydra.

A misspelt key or a value of the wrong type is refused by it. What users bring themselves (model,
dataset, loss, optimizer, schedule and so on) stays plain YAML with a `_target_`.
"""

from __future__ import annotations

import types
from dataclasses import field, fields, is_dataclass, make_dataclass
from typing import Any, Literal, Optional, Union, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from flops_fit.cli.verbs import VERBS
from flops_fit.settings import Setting, declared

PLAIN = (bool, str)
"""Types that OmegaConf checks and converts by itself. Numbers are left to the settings, which take
1e3 for a whole one and say more of what is none."""


def register_schemas() -> None:
    """Makes the schema of each verb known to Hydra under the name that configs/<verb>.yaml uses."""
    store = ConfigStore.instance()
    for verb in VERBS.values():
        store.store(name=f"{verb.name}_schema", node=schema(verb.settings))


def schema(cls: type) -> type:
    """The dataclass that OmegaConf checks a config of these settings by."""
    return make_dataclass(cls.__name__, [_field(setting) for setting in declared(cls)])


def _field(setting: Setting) -> tuple[str, Any, Any]:
    if is_dataclass(setting.type):
        nested = _nested(setting.type)
        return setting.name, nested, field(default_factory=nested)
    hint = _hint(setting.type)
    if setting.is_required:
        return setting.name, hint, field(default=MISSING)
    default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
    if isinstance(default, list | dict):
        return setting.name, hint, field(default_factory=default.copy)
    return setting.name, hint, field(default=default)


def _nested(cls: Any) -> Any:
    hints = get_type_hints(cls)
    entries = [(f.name, _hint(hints[f.name]), field(default=f.default)) for f in fields(cls)]
    return make_dataclass(cls.__name__, entries)


def _hint(hint: Any) -> Any:
    """The type itself or its Optional, if OmegaConf can check it; else anything goes."""
    if get_origin(hint) is Literal:
        return str
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        inner = _hint(kinds[0]) if len(kinds) == 1 else Any
        return inner if inner is Any else Optional[inner]  # noqa: UP045
    return hint if hint in PLAIN else Any
