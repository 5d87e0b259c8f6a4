"""Help and shell completion. Needs neither torch, hydra nor numpy."""

from __future__ import annotations

import os
import shutil
import textwrap
from string import Template

from flops_fit.cli.groups import USER_CONFIGS, Folders, groups_of
from flops_fit.cli.verbs import VERBS, Verb
from flops_fit.files import shipped_configs
from flops_fit.settings.declaration import Setting, sections
from flops_fit.settings.listing import default_text

NAME_WIDTH, WIDEST = 27, 100
"""Columns of a setting with its default, and of a line of help where the terminal has as many."""


def verb_help(verb: Verb) -> str:
    """The verb's `hydra.help.template`, filled in here: Hydra takes half a second over it."""
    from omegaconf import OmegaConf

    template = OmegaConf.load(shipped_configs() / f"{verb.name}.yaml").hydra.help.template
    return Template(template).substitute(
        APP_CONFIG_GROUPS="\n".join(map(options_line, groups_of(verb.name))),
        SETTINGS=settings_text(verb),
    )


def settings_text(verb: Verb) -> str:
    """All settings of a verb with defaults, units and meaning, by section."""
    found = []
    for heading, settings in sections(verb.settings):
        found += [f"{heading}:", *map(setting_line, settings), ""]
    return "\n".join(found).rstrip()


def setting_line(setting: Setting) -> str:
    head = f"  {setting.name}={default_text(setting)}"
    unit = f" [{setting.unit}]" if setting.unit else ""
    gap = " " * (NAME_WIDTH - len(head)) if len(head) < NAME_WIDTH else "  "
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 0)).columns)
    return textwrap.fill(
        f"{head}{gap}{setting.about}{unit}", width, subsequent_indent=" " * NAME_WIDTH,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def options_line(group: str) -> str:
    """The group's options, shipped and the user's own."""
    options = Folders.of_user(USER_CONFIGS).options(group)
    return f"  {group}: {', '.join(options) or 'yours'}"


def completed_verbs(action: str) -> str | None:
    """The verbs that complete what is typed of one; None where that is not what is asked."""
    _, _, rest = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
    verb, space, _ = rest.lstrip().partition(" ")
    if action.startswith("query=") and not space:
        return " ".join(name for name in VERBS if name.startswith(verb))
    return None


def without_verb() -> str:
    """Cuts the verb out of the line that is being completed, and returns it."""
    program, _, rest = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
    verb, _, rest = rest.lstrip().partition(" ")
    os.environ["COMP_LINE"] = f"{program} {rest}"
    return verb
