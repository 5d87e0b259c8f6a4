"""What an envelope rests on, in words."""

from __future__ import annotations

from flops_fit.fitting.contract import Examined, FittedDraws
from flops_fit.fitting.envelope.fit import EnvelopeOfCurves
from flops_fit.fitting.envelope.law import EnvelopeLaw
from flops_fit.fitting.points import Points


def examined(
    method: EnvelopeOfCurves, points: Points, law: EnvelopeLaw | None, draws: FittedDraws | None
) -> Examined:
    """How many of its points come from runs whose schedule had not ended."""
    if law is None:
        return Examined()
    return Examined(
        findings=(
            f"approach 1 (envelope): a = {law.a:.3f} through {len(law.points)} checkpoints, of "
            f"which {law.num_final} end their run; at the others the learning rate had not come "
            "down",
        )
    )
