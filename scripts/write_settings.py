"""Writes what follows from the declared settings: docs/settings.md and settings/keywords.py.

With --check says whether both are as they should be, and writes nothing.
"""

import sys
from pathlib import Path

from flops_fit.cli.verbs import VERBS
from flops_fit.settings import FaceSettings, SweepSettings
from flops_fit.settings.answers import TableFitSettings
from flops_fit.settings.declaration import Kind
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
    from flops_fit.store.protocols import Logger
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


def written() -> dict[Path, str]:
    """Path -> what it should hold."""
    kinds = "\n".join(f"- {kind.name.lower()}: {kind.value}" for kind in Kind)
    sections = settings_page((verb.name, verb.settings) for verb in VERBS.values())
    sweep = keyword_types(
        "SweepKeywords", "Settings of `find_optimal`.", (FaceSettings, SweepSettings)
    )
    fit = keyword_types("FitKeywords", "Settings of `fit_table`.", (TableFitSettings,))
    return {
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
