"""What can be set: each setting declared once, with its default, unit, meaning and kind.

Imports neither torch nor hydra nor numpy: the schema of the configs, help, docs, `find_optimal`'s
keyword arguments, what a run's id knows, what `verify` compares and what the optimal run's config
takes over all follow from the declarations.
"""

from flops_fit.settings.answers import (
    AnswerSettings,
    CancelSettings,
    ColumnNames,
    CompareSettings,
    FitSettings,
    FittingSettings,
    PredictSettings,
    ReportSettings,
    StatusSettings,
)
from flops_fit.settings.declaration import Kind, Setting, declared, names_of
from flops_fit.settings.plain import from_keywords, from_plain, plain, stored
from flops_fit.settings.sweep import (
    BATCH_SIZE,
    DataSettings,
    FaceSettings,
    MachineSettings,
    PartSettings,
    PlaceSettings,
    PlanningSettings,
    PlanSettings,
    StepSettings,
    SweepSettings,
    VerifySettings,
)

__all__ = [
    "BATCH_SIZE",
    "AnswerSettings",
    "CancelSettings",
    "ColumnNames",
    "CompareSettings",
    "DataSettings",
    "FaceSettings",
    "FitSettings",
    "FittingSettings",
    "Kind",
    "MachineSettings",
    "PartSettings",
    "PlaceSettings",
    "PlanSettings",
    "PlanningSettings",
    "PredictSettings",
    "ReportSettings",
    "Setting",
    "StatusSettings",
    "StepSettings",
    "SweepSettings",
    "VerifySettings",
    "declared",
    "from_keywords",
    "from_plain",
    "names_of",
    "plain",
    "stored",
]
