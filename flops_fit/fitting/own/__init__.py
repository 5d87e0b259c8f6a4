"""Anyone's own method of fitting: its settings are called with runs, its law is kept as a table."""

from flops_fit.fitting.contract import MethodKind
from flops_fit.fitting.own.fit import OwnFit, refit
from flops_fit.fitting.tabulated import TabulatedDraws, TabulatedLaw

__all__ = ["OwnFit"]

KIND = MethodKind(
    name="own",
    settings=None,
    method=lambda settings, _curves: OwnFit(settings),
    read_law=TabulatedLaw.from_json,
    read_draws=TabulatedDraws.from_columns,
    refit=refit,
)
