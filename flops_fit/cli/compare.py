"""`flops-fit compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flops_fit.answers.comparison import COMPARABLE, Contender, compare_laws
from flops_fit.answers.optima import Side, compare_optima
from flops_fit.building.node import Origins
from flops_fit.cli.exit_codes import OK
from flops_fit.errors import ConfigError, StudyError
from flops_fit.laws.publication import PublishedLaw
from flops_fit.laws.published import is_published, published_law, published_names
from flops_fit.report import tables
from flops_fit.report.documents import print_json
from flops_fit.report.files import write_comparison
from flops_fit.report.screen import results, say, show, show_table
from flops_fit.settings import CompareSettings
from flops_fit.study.found import found_study, read_law, study_runs


def compare(settings: CompareSettings, origins: Origins) -> int:
    """Two studies side by side, on screen, as a figure and as JSON; or one beside a publication."""
    names = two_studies(settings.studies)
    a, b = (contender(name, settings.output_root) for name in names)
    if isinstance(a, Contender) and isinstance(b, Contender):
        return compare_studies(a, b, settings)
    return compare_to_published(side(names[0], a), side(names[1], b), settings)


def compare_studies(a: Contender, b: Contender, settings: CompareSettings) -> int:
    """Losses at equal compute, the compute multiplier, and the crossing."""
    comparison = compare_laws(a, b)
    if settings.json:
        print_json(comparison.to_json())
    else:
        show(comparison.verdict)
        show_table(tables.comparison_table(comparison, results().width))
        show(tables.crossing_line(comparison.crossing))
        for one in (comparison.a, comparison.b):
            show(f"{one.name}: {one.verdict}")
    for line in (f"note: {COMPARABLE}", *(f"warning: {text}" for text in comparison.warnings)):
        say(line)
    for path in write_comparison(comparison, Path(settings.output_root)):
        say(f"wrote {path}")
    return OK


def compare_to_published(a: Side, b: Side, settings: CompareSettings) -> int:
    """N_opt, D_opt and tokens per parameter at the budgets of the study and beyond."""
    comparison = compare_optima(a, b)
    if settings.json:
        print_json(comparison.to_json())
    else:
        show(comparison.verdict)
        show_table(tables.optima_table(comparison, results().width))
    for one in (a, b):
        if one.published:
            say(f"{one.name} is {one.published.publication}")
    for line in (f"note: {comparison.losses}", *(f"warning: {t}" for t in comparison.warnings)):
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


def contender(name: str, output_root: str) -> Contender | PublishedLaw:
    """A fitted study, or the published law of that name where there is no such study."""
    if not (Path(output_root) / name).is_dir():
        if not is_published(name):
            raise no_study(name, output_root)
        return published_law(name)
    folder = found_study(name, output_root)
    taken = f" (of yours, not the published law {name!r})" if is_published(name) else ""
    say(f"study: {folder.path}{taken}")
    return Contender.of(name, read_law(folder), study_runs(folder))


def no_study(name: str, output_root: str) -> StudyError:
    """What is said of a name that stands for nothing."""
    return StudyError(
        f"no study {name!r} under {Path(output_root).resolve()}: run `flops-fit train` first, or "
        f"name another, or a published law ({', '.join(published_names())})"
    )


def side(name: str, law: Contender | PublishedLaw) -> Side:
    """One side of a comparison of optima."""
    if isinstance(law, Contender):
        return Side.of_study(law)
    return Side.of_publication(name, law)
