"""Approach 1: the lower envelope of the runs' training curves, a line through its points."""

from flops_fit.fitting.contract import MethodKind
from flops_fit.fitting.envelope.fit import EnvelopeFit, EnvelopeOfCurves
from flops_fit.fitting.envelope.law import EnvelopeLaw
from flops_fit.fitting.envelope.words import examined
from flops_fit.fitting.tabulated import TabulatedDraws

__all__ = ["EnvelopeFit", "EnvelopeLaw"]

KIND = MethodKind(
    name="envelope",
    settings=EnvelopeFit,
    method=EnvelopeOfCurves,
    read_law=EnvelopeLaw.from_json,
    read_draws=TabulatedDraws.from_columns,
    approach=1,
    words="envelope of training curves",
    reads_curves=True,
    examined=examined,
)
