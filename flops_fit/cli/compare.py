"""`flops-fit compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flops_fit.answers.comparison import COMPARABLE, Contender, compare_laws
from flops_fit.building.node import Origins
from flops_fit.cli.exit_codes import OK
from flops_fit.errors import ConfigError
from flops_fit.report import tables
from flops_fit.report.files import write_comparison
from flops_fit.report.printing import print_json
from flops_fit.report.screen import results, say
from flops_fit.settings import CompareSettings
from flops_fit.study.found import found_study, read_law, study_runs


def compare(settings: CompareSettings, origins: Origins) -> int:
    """Two studies side by side, on screen, as a figure and as JSON."""
    a, b = (contender(name, settings.output_root) for name in two_studies(settings.studies))
    comparison = compare_laws(a, b)
    if settings.json:
        print_json(comparison.to_json())
    else:
        results().print(comparison.verdict, markup=False)
        results().print(tables.comparison_table(comparison))
        results().print(tables.crossing_line(comparison.crossing), markup=False)
    for line in (f"note: {COMPARABLE}", *(f"warning: {text}" for text in comparison.warnings)):
        say(line)
    for path in write_comparison(comparison, Path(settings.output_root)):
        say(f"wrote {path}")
    return OK


def two_studies(names: Sequence[str]) -> Sequence[str]:
    """The names, if they are two."""
    if len(names) != 2 or not all(names):
        raise ConfigError(
            f"studies names {len(names)} ({', '.join(names)}): name the two to compare, such as "
            "studies=mlp-toy,wide-toy"
        )
    if names[0] == names[1]:
        raise ConfigError(f"studies names {names[0]!r} twice: name another to compare it with")
    return names


def contender(name: str, output_root: str) -> Contender:
    """A fitted study as one side of a comparison."""
    folder = found_study(name, output_root)
    say(f"study: {folder.path}")
    return Contender.of(name, read_law(folder), study_runs(folder))
