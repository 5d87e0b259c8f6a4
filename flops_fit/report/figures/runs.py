"""Runs as points: those a fit used and those it didn't, what each is, how sure its loss is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.fitting.metrics import LOSS, label, measured_by
from flops_fit.laws import Array
from flops_fit.plan.run import Run
from flops_fit.report.figures.frames import Frame
from flops_fit.report.figures.marks import Points, Symbol, column

BAR = 1.96
"""Standard deviations to either end of a bar: 95%."""


@dataclass(frozen=True)
class Measured:
    """The runs that have what was fitted, as their loss, and what the fit made of them.

    `unit` is that of the loss, empty where nothing tells it. `noise` is the relative standard
    deviation of a loss by repeated seeds. `reasons` say why a run was left out, by its id.
    """

    runs: tuple[Run, ...]
    used: frozenset[str]
    budgets: tuple[float, ...]
    metric: str
    unit: str
    noise: float | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def loss_label(self) -> str:
        return f"held-out {label(self.metric)}" + (f" ({self.unit})" if self.unit else "")

    @property
    def others_colour(self) -> str:
        """Of runs that share their compute with no others."""
        return "muted" if self.budgets else "run"

    def where(self, chosen: Callable[[Run], bool]) -> list[Run]:
        return [run for run in self.runs if chosen(run)]

    def loss_bars(self, runs: Sequence[Run]) -> Array | None:
        """95% either way by what the held-out samples and repeated seeds say, (n, 2)."""
        loss, sampled = column([r.loss for r in runs]), column([r.loss_stderr for r in runs])
        deviation = np.hypot(np.nan_to_num(sampled), (self.noise or 0.0) * loss)
        if not deviation.any():
            return None
        return np.stack([loss - BAR * deviation, loss + BAR * deviation], axis=1)

    def text(self, run: Run) -> str:
        """What a run is, and why it was left out if it was."""
        reason = self.reasons.get(run.id)
        return f"{run.id}, left out: {reason}" if reason else run.id

    def points(
        self,
        runs: Sequence[Run],
        x: Callable[[Run], float],
        colour: str,
        symbol: Symbol,
        name: str = "",
        frame: Frame | None = None,
    ) -> tuple[Points, ...]:
        """Runs at x and their losses; those beyond the frame stand at its upper edge."""
        top = np.inf if frame is None else frame.limits[1]
        inside = [run for run in runs if (run.loss or 0.0) <= top]
        above = [run for run in runs if (run.loss or 0.0) > top]
        found = []
        if inside or name:
            found.append(
                Points(
                    x=column([x(run) for run in inside]),
                    y=column([run.loss for run in inside]),
                    colour=colour,
                    symbol=symbol,
                    name=name,
                    y_bars=self.loss_bars(inside),
                    texts=[self.text(run) for run in inside],
                )
            )
        if above:
            found.append(
                Points(
                    x=column([x(run) for run in above]),
                    y=np.full(len(above), top),
                    colour=colour,
                    symbol=Symbol.ABOVE,
                    texts=[f"{self.text(run)}, loss {run.loss:.4g}" for run in above],
                )
            )
        return tuple(found)


def measured(runs: Sequence[Run], answer: ScalingLaw | Refusal) -> Measured:
    """The runs with a number of what was fitted, and what became of them."""
    with_loss = tuple(r for r in measured_by(runs, answer.metric) if r.loss is not None)
    noise = answer.diagnostics.numbers.seed_noise if isinstance(answer, ScalingLaw) else None
    return Measured(
        runs=with_loss,
        used=frozenset(answer.rows_used),
        budgets=tuple(optimum.budget for optimum in answer.budgets),
        metric=answer.metric,
        unit=unit_of_loss(runs, answer),
        noise=noise,
        reasons={dropped.id: dropped.reason for dropped in answer.dropped},
    )


def unit_of_loss(runs: Sequence[Run], answer: ScalingLaw | Refusal) -> str:
    """The unit of what was fitted, where the runs or their table tell it: losses of several
    predictions a sample are those of language models."""
    if answer.metric != LOSS:
        return ""
    is_table = isinstance(answer, ScalingLaw) and "table" in answer.provenance
    of_tokens = any(
        run.batch_size and run.batch_tokens and run.batch_tokens > run.batch_size for run in runs
    )
    return "nats per token" if is_table or of_tokens else ""
