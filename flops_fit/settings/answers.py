"""Settings of the verbs that look at what was trained, and train nothing."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Literal

from flops_fit.settings.declaration import answer
from flops_fit.settings.sweep import FLOPS_PER_PARAM_PER_TOKEN, LawSettings, Node, StepSettings


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """Study"""

    study: str | None = answer(None, "null: the last one trained under output_root", python="")
    output_root: str = answer("outputs", "folder of all studies", python="")
    json: bool = answer(False, "print one JSON document on stdout", python="")


@dataclass(frozen=True, kw_only=True)
class ColumnNames:
    """What a table calls our columns; null: looked for under our name and common ones."""

    # Or expressions of its columns, such as "steps * 524288" and "log(perplexity)".
    num_params: str | None = None
    num_tokens: str | None = None
    flops: str | None = None
    loss: str | None = None
    budget: str | None = None
    id: str | list[str] | None = None  # several, where only they tell runs apart
    status: str | None = None
    seed: str | None = None
    loss_stderr: str | None = None
    num_params_total: str | None = None
    unique_tokens: str | None = None
    num_steps: str | None = None
    trunk: str | None = None
    # k, M, B, T for counts; flops, gflops, pf-days and the like for compute; or a number
    num_params_unit: str | float | None = None
    num_tokens_unit: str | float | None = None
    flops_unit: str | float | None = None
    budget_unit: str | float | None = None
    num_params_total_unit: str | float | None = None
    unique_tokens_unit: str | float | None = None


@dataclass(frozen=True, kw_only=True)
class FittingSettings(LawSettings):
    """Fit"""

    select: Node = answer(
        MISSING, "which of several runs of one (N, D)", python="str | Selection | None"
    )
    metric: str = answer("loss", "or another of the runs' metrics, 1-NAME for what grows")
    seed: int = answer(StepSettings.seed, "of the bootstrap", least=0)


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """A table of runs in place of the study's own"""

    runs: str | list[str] | None = answer(
        None,
        "its file; or several, a folder, a pattern: CSV, JSON, Markdown, Parquet, Excel",
        python="",
    )
    columns: ColumnNames = answer(
        ColumnNames,
        "its names of our columns, expressions of them, and units",
        python="Mapping[str, Any] | None",
    )
    where: str = answer(
        "", "rows to read, by its columns: config = base and not (step < 9 or lr in [1, 3])"
    )
    pivot: str = answer("", "what goes down and across in a table of losses: num_params,flops")
    loss_unit: Literal["nats", "bits", "bits_per_byte"] = answer("nats", "of its loss, per token")
    bytes_per_token: float | None = answer(None, "for bits_per_byte", "bytes")
    flops_per_param_per_token: float = answer(
        FLOPS_PER_PARAM_PER_TOKEN, "where one of N, D and C is not given", "FLOPs"
    )


@dataclass(frozen=True, kw_only=True)
class TableFitSettings(TableSettings, FittingSettings):
    """What `fit_table` can be told."""


@dataclass(frozen=True, kw_only=True)
class FitSettings(AnswerSettings, TableFitSettings):
    """What `fit` can be told."""

    budgets: tuple[float, ...] = answer(
        (), "also answer for these; on the command line budget=", "FLOPs", python=""
    )


@dataclass(frozen=True, kw_only=True)
class ReferenceSettings:
    """Published law, in place of the study's"""

    law: str | None = answer(
        None, "its name, such as chinchilla; law=list names them all", python=""
    )


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """Target: for what to predict; else all that `fit` predicted"""

    budgets: tuple[float, ...] = answer((), "on the command line budget=", "FLOPs", python="")
    num_params: float | None = answer(None, "the budget at which this size is the best")
    num_tokens: float | None = answer(None, "the budget at which so many tokens are the best")
    instead: float | None = answer(None, "N: what it costs to train this size instead")


@dataclass(frozen=True, kw_only=True)
class PredictSettings(AnswerSettings, TargetSettings, ReferenceSettings):
    """What `predict` can be told."""


@dataclass(frozen=True, kw_only=True)
class CompareSettings(AnswerSettings):
    """Comparison"""

    studies: tuple[str, ...] = answer(
        (), "two names under output_root; one may be a published law, such as chinchilla", python=""
    )


@dataclass(frozen=True, kw_only=True)
class ReportSettings(AnswerSettings):
    """Report"""

    open: bool = answer(False, "show report.html in the browser", python="")


@dataclass(frozen=True, kw_only=True)
class StatusSettings(AnswerSettings):
    """What `status` can be told."""


@dataclass(frozen=True, kw_only=True)
class CancelSettings(AnswerSettings):
    """What `cancel` can be told."""
