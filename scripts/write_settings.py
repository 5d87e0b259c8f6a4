"""Writes what follows from the code: docs/settings.md, docs/commands.md and settings/keywords.py.

With --check says whether all are as they should be, and writes nothing.
"""

import re
import sys
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from pathlib import Path

from omegaconf import OmegaConf

from flops_fit.cli.verbs import VERBS, Verb
from flops_fit.files import shipped_configs
from flops_fit.settings import FaceSettings, SweepSettings
from flops_fit.settings.answers import TableFitSettings
from flops_fit.settings.declaration import Kind, sections
from flops_fit.settings.listing import keyword_types, settings_page

ROOT = Path(__file__).resolve().parent.parent

KEYWORDS = '''"""Arguments of the Python face, for type checkers: by scripts/write_settings.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from flops_fit.fitting import FitSettings as Fit
    from flops_fit.fitting.selection import Selection
    from flops_fit.learning.schedules import Schedule
    from flops_fit.plan.rules import Rule
    from flops_fit.settings.sweep import SizeValue
    from flops_fit.store.protocols import Executor, Logger
    from flops_fit.training.recipe import Metric


{sweep}


{fit}
'''

PAGE = """<!-- made by scripts/write_settings.py -->
# Settings

Every setting of the command line, `name=value`; from Python the same names are arguments of
`find_optimal` and `fit_table`. A default of `..` is set by a config group or must be given. Kinds:

{kinds}

{sections}"""


COMMANDS = """<!-- made by scripts/write_settings.py -->
# Commands

`flops-fit VERB [NAME=VALUE ..] [GROUP=OPTION ..]`. Each takes `--help`, and `--cfg job`, which
prints what its settings are now. `-m` sweeps over several values, `a,b`. Configs of yours are found
in `./conf`, or where `--config-dir` says. Tab completion: `eval "$(flops-fit -sc install=bash)"`.

Exit codes: 0 all is well, 1 an error, 2 wrong usage, 3 some runs failed or there is no law, 130
interrupted. With `json=true` stdout holds [one JSON document](law-json.md); what is said to people
goes to stderr.

{verbs}

## What ships

Options of the config groups, `group=option`; `+` adds one of a group that is not in use by itself.

{groups}
"""


def verb_section(verb: Verb) -> str:
    """What its help says, with links to its settings."""
    template = OmegaConf.load(shipped_configs() / f"{verb.name}.yaml").hydra.help.template
    about, _, rest = template.partition("\nExamples:\n")
    examples, _, more = rest.partition("\n\n")
    remark = re.split(r"^(?:Groups|\$SETTINGS)", more, maxsplit=1, flags=re.MULTILINE)[0].strip()
    commands = "\n".join(line.strip() for line in examples.splitlines())
    links = [f"[{h}](settings.md#{anchor(h)})" for h, _ in sections(verb.settings)]
    parts = [f"## flops-fit {verb.name}", about.strip(), f"```sh\n{commands}\n```", remark]
    return "\n\n".join([*filter(None, parts), f"Settings: {'; '.join(links)}."])


def anchor(heading: str) -> str:
    """Of a heading, as Markdown makes it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def option_rows() -> Iterator[str]:
    """Every option of every group, with the words that its file begins with."""
    yield from ("| group | option | is |", "|---|---|---|")
    for group in sorted(path for path in shipped_configs().iterdir() if path.is_dir()):
        for file in sorted(group.glob("*.yaml")):
            yield f"| `{group.name}` | `{file.stem}` | {first_words(file)} |"


def first_words(config: Path) -> str:
    """Of its comment, up to the command that it gives as an example."""
    lines = dropwhile(lambda line: "@package" in line, config.read_text("utf-8").splitlines())
    comment = takewhile(lambda line: re.match(r"# \S", line), lines)
    text = " ".join(line.removeprefix("# ") for line in comment)
    return text.replace("|", "/").replace("<", "&lt;")


def written() -> dict[Path, str]:
    """Path -> what it should hold."""
    kinds = "\n".join(f"- {kind.name.lower()}: {kind.value}" for kind in Kind)
    sections = settings_page((verb.name, verb.settings) for verb in VERBS.values())
    sweep = keyword_types(
        "SweepKeywords", "Settings of `find_optimal`.", (FaceSettings, SweepSettings)
    )
    fit = keyword_types("FitKeywords", "Settings of `fit_table`.", (TableFitSettings,))
    commands = COMMANDS.format(
        verbs="\n\n".join(map(verb_section, VERBS.values())), groups="\n".join(option_rows())
    )
    return {
        ROOT / "docs/commands.md": commands,
        ROOT / "docs/settings.md": PAGE.format(kinds=kinds, sections=sections),
        ROOT / "flops_fit/settings/keywords.py": KEYWORDS.format(sweep=sweep, fit=fit),
    }


def main() -> int:
    stale = [
        path
        for path, text in written().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv:
        print("\n".join(f"{path} is not of today's settings" for path in stale))
        return 1 if stale else 0
    for path in stale:
        path.write_text(written()[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
