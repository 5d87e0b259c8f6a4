"""The table of a multirun of `train`: a line for each of its jobs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from flops_fit.cli.jobs import VARIANTS, is_multirun, path_of_job
from flops_fit.files import read_json, write_json
from flops_fit.report import tables
from flops_fit.report.screen import show_table
from flops_fit.report.summary import exponent
from flops_fit.study.fits import FittedStudy


def keep_variant(study: FittedStudy) -> None:
    """Leave this job's line of the table; outside of a multirun there is none."""
    if is_multirun():
        write_json(path_of_job(VARIANTS), asdict(variant(study)))


def variant(study: FittedStudy) -> tables.Variant:
    """The line of a study that this job trained."""
    losses = [run.loss for run in study.runs if run.loss is not None]
    return tables.Variant(
        overrides=list(HydraConfig.get().overrides.task),
        num_trained=study.num_trained,
        num_runs=len(study.runs),
        best_loss=min(losses, default=None),
        exponent=exponent(study.law, study.law.answer) if study.law else "",
    )


def print_variants(folder: Path) -> None:
    """After a multirun of `train`: its jobs side by side."""
    variants = [tables.Variant(**read_json(path)) for path in sorted(folder.glob(VARIANTS))]
    if variants:
        show_table(tables.variants_table(variants))
