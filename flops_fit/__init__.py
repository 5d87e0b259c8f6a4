"""flops-fit: how large a model, on how many tokens, to what loss, and how sure."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flops_fit.answers.verification import Verification as Verification
    from flops_fit.api import find_optimal as find_optimal
    from flops_fit.api import fit_table as fit_table
    from flops_fit.api import load_law as load_law
    from flops_fit.api import propose_budgets as propose_budgets
    from flops_fit.errors import UserError as UserError
    from flops_fit.fitting.answer import Answer as Answer
    from flops_fit.fitting.result import ScalingLaw as ScalingLaw
    from flops_fit.laws.prediction import Prediction as Prediction
    from flops_fit.laws.published import published_law as published_law
    from flops_fit.learning.schedules import WSD as WSD
    from flops_fit.learning.schedules import Constant as Constant
    from flops_fit.learning.schedules import Cosine as Cosine
    from flops_fit.learning.schedules import Linear as Linear
    from flops_fit.plan.experiment import Plan as Plan
    from flops_fit.plan.rules import PowerRule as PowerRule
    from flops_fit.plan.run import Run as Run
    from flops_fit.study.study import Study as Study
    from flops_fit.study.sweeps import Proposed as Proposed

__version__ = "0.2.0"
"""The one place of it: pyproject.toml, light/pyproject.toml and CITATION.cff follow."""

_WHERE = {
    "find_optimal": "api",
    "fit_table": "api",
    "load_law": "api",
    "propose_budgets": "api",
    "published_law": "laws.published",
    "Study": "study.study",
    "Plan": "plan.experiment",
    "Run": "plan.run",
    "Proposed": "study.sweeps",
    "ScalingLaw": "fitting.result",
    "Answer": "fitting.answer",
    "Prediction": "laws.prediction",
    "Verification": "answers.verification",
    "Constant": "learning.schedules",
    "Cosine": "learning.schedules",
    "Linear": "learning.schedules",
    "WSD": "learning.schedules",
    "PowerRule": "plan.rules",
    "UserError": "errors",
}
"""What users call -> its module, imported on first use: help and the fitting half stay light."""

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"flops_fit.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*_WHERE, "__version__"]
