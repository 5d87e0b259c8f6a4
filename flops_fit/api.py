"""The Python face: the same studies as on the command line, from Python objects, without Hydra."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from flops_fit.building.node import chosen
from flops_fit.errors import ConfigError, PlanError, StudyError
from flops_fit.executors.elsewhere import study_elsewhere
from flops_fit.files import read_record, reading
from flops_fit.fitting import ScalingLaw
from flops_fit.fitting.result import LAW_FILE
from flops_fit.plan.experiment import Plan
from flops_fit.plan.flops import FormulaFlops
from flops_fit.plan.rules import Rules
from flops_fit.plan.sweep import DataShape, plan_sweep
from flops_fit.report.screen import say
from flops_fit.settings import FaceSettings, PlaceSettings, SweepSettings, declared, from_keywords
from flops_fit.settings.answers import TableFitSettings
from flops_fit.settings.keywords import FitKeywords, SweepKeywords
from flops_fit.settings.plain import check_names
from flops_fit.signatures import qualified_name
from flops_fit.store.folder import StudyFolder
from flops_fit.store.unguarded import check_is_started
from flops_fit.study.fits import Fitting, fit_again, table_to_fit
from flops_fit.study.study import Study
from flops_fit.study.sweeps import Proposed, propose_study, train_study
from flops_fit.tables import Asked, name_of, table_files

if TYPE_CHECKING:
    from flops_fit.training.family import LossFunction, ModelFactory, SizeSpec
    from flops_fit.training.spec import StudySpec

DEFAULT_FIT, DEFAULT_SELECT = "auto", "every"
"""Options of configs/fit and configs/select that are meant where none is named."""

NO_LOGGER, THIS_MACHINE = "none", "local"
"""Options that stand for no object."""


@overload
def find_optimal(
    *,
    model_cls: ModelFactory,
    model_size_param: str,
    compute_budgets: Sequence[float],
    dataset: None = None,
    loss_fn: LossFunction | None = None,
    train: bool = True,
    **settings: Unpack[SweepKeywords],
) -> Plan: ...


@overload
def find_optimal(
    *,
    model_cls: ModelFactory,
    model_size_param: str,
    compute_budgets: Sequence[float],
    dataset: Any,
    loss_fn: None = None,
    train: bool = True,
    **settings: Unpack[SweepKeywords],
) -> Plan: ...


@overload
def find_optimal(
    *,
    model_cls: ModelFactory,
    model_size_param: str,
    compute_budgets: Sequence[float],
    dataset: Any,
    loss_fn: LossFunction,
    train: Literal[False],
    **settings: Unpack[SweepKeywords],
) -> Plan: ...


@overload
def find_optimal(
    *,
    model_cls: ModelFactory,
    model_size_param: str,
    compute_budgets: Sequence[float],
    dataset: Any,
    loss_fn: LossFunction,
    train: Literal[True] = True,
    **settings: Unpack[SweepKeywords],
) -> Study: ...


def find_optimal(
    model_cls: ModelFactory,
    model_size_param: str,
    model_kwargs: Mapping[str, Any] | None = None,
    dataset: Any = None,
    loss_fn: LossFunction | None = None,
    compute_budgets: Sequence[float] = (),
    train: bool = True,
    **settings: Any,
) -> Study | Plan:
    """The scaling law of a model family on a dataset: plan, train what is missing, fit.

    `model_cls(**model_kwargs, **{model_size_param: value})` builds one size; `loss_fn(output,
    target)` is a mean over the batch. `dataset` is a map-style Dataset, an IterableDataset, a
    DataLoader (whose own batch size then counts), a tensor or a pair of tensors. `compute_budgets`
    are FLOPs. All other settings are those of the command line (docs/settings.md): `metrics` maps
    names to further functions (output, target), `fit` is a name such as "isoflop" or a frozen
    dataclass of your own, rules are functions of (num_params, num_tokens). One run trains after
    the other unless `workers` says how many at once, or an `executor` leaves them to the jobs of a
    cluster: then the study that is returned has what is trained so far, and the same call later on
    its law.

    With `train=False`, or without a dataset or loss, returns the `Plan`. Otherwise trains and
    returns the `Study`; what `output_dir` already holds of it is not trained again, unless
    `resume=False`, which moves it aside.

    Raises `PlanError` or `ConfigError` for what can't be planned or doesn't fit together.
    """
    check_is_started()
    budgets = checked_budgets(compute_budgets)
    call = read_call(model_cls, model_size_param, model_kwargs, dataset, budgets, settings)
    if dataset is None or loss_fn is None:
        return plan_without_data(model_cls, call.size, call.face, call.sweep)
    spec, folder = call.spec(dataset, loss_fn), call.folder
    if not train:
        return spec.prepare(folder).plan
    how = Fitting(method(settings.get("fit")), call.sweep.draws, call.sweep.seed)
    logger = called("logger", settings.get("logger"), NO_LOGGER)
    executor = called("executor", settings.get("executor"), THIS_MACHINE)
    if not call.face.resume:
        folder.set_aside(spec.prepare(folder).plan)
    kept = recorded(call.sweep)
    if executor is None:
        return Study(train_study(spec, folder, kept, how, logger=logger, warn=warned))
    return Study(study_elsewhere(executor, spec, folder, kept, how, logger))


def propose_budgets(
    *,
    model_cls: ModelFactory,
    model_size_param: str,
    dataset: Any,
    loss_fn: LossFunction,
    machine: str | Path | None = None,
    **settings: Unpack[SweepKeywords],
) -> Proposed:
    """Budgets that data and sizes carry, for `find_optimal` with the same arguments:
    `find_optimal(**{**arguments, **proposed.arguments})`. What `flops-fit plan` does without any.

    `machine` is a GPU such as "h100", or a YAML file, for which time and memory are told; None:
    here. Nothing is trained or written. Raises `PlanError` where data and sizes carry no budgets.
    """
    from flops_fit.training.hardware import named

    given: dict[str, Any] = {**settings}
    call = read_call(
        model_cls, model_size_param, given.pop("model_kwargs", None), dataset, (), given
    )
    spec = call.spec(dataset, loss_fn)
    hardware = None if machine is None else named(str(machine))
    return propose_study(spec, call.folder, recorded(call.sweep), hardware)


@dataclass(frozen=True)
class Call:
    """What this face was given: a model's class and the settings as they were, and as read."""

    model_cls: ModelFactory
    size: SizeSpec
    face: FaceSettings
    sweep: SweepSettings
    folder: StudyFolder
    settings: Mapping[str, Any]

    def spec(self, dataset: Any, loss_fn: LossFunction) -> StudySpec:
        """Raises `ConfigError` or `PlanError` for what doesn't fit together."""
        from flops_fit.building.from_objects import ingredients  # torch, which not all need
        from flops_fit.building.ingredients import study_spec

        rules = Rules(self.settings.get("learning_rate_rule"), self.settings.get("batch_rule"))
        brought = ingredients(
            model_cls=self.model_cls,
            arguments=self.face.model_kwargs or {},
            size=self.size,
            dataset=dataset,
            loss=loss_fn,
            optimizer_cls=self.face.optimizer_cls,
            learning_rate=self.face.learning_rate,
            schedule=self.settings.get("schedule"),
            metrics=self.settings.get("metrics"),
            rules=rules,
        )
        return replace(study_spec(brought, self.sweep), settings=recorded(self.sweep))


def read_call(
    model_cls: ModelFactory,
    model_size_param: str,
    model_kwargs: Mapping[str, Any] | None,
    dataset: Any,
    budgets: tuple[float, ...],
    settings: Mapping[str, Any],
) -> Call:
    """Raises `ConfigError` for settings that there are not, or of another type."""
    check_names(settings, FaceSettings, SweepSettings)
    face = from_keywords(FaceSettings, settings, {"model_kwargs": model_kwargs})
    name = "-".join(qualified_name(part).rpartition(".")[2] for part in (model_cls, dataset))
    folder = StudyFolder(Path(face.output_dir or Path(PlaceSettings.output_root) / name))
    given: dict[str, Any] = {"budgets": budgets, "study": folder.path.name}
    if face.epochs is not None and "max_epochs" not in settings:
        given["max_epochs"] = face.epochs
    sweep = from_keywords(SweepSettings, settings, given)
    return Call(model_cls, size_argument(model_size_param, face), face, sweep, folder, settings)


def checked_budgets(compute_budgets: Sequence[float]) -> tuple[float, ...]:
    """FLOPs. Raises `ConfigError` for what is no list, `PlanError` for an empty one."""
    if isinstance(compute_budgets, str) or not isinstance(compute_budgets, Iterable):
        raise ConfigError(
            f"compute_budgets is {compute_budgets!r}: give a list of FLOPs, such as "
            "compute_budgets=[1e15, 1e16]"
        )
    budgets = tuple(compute_budgets)
    if not budgets:
        raise PlanError(
            "compute_budgets is empty: give some in FLOPs, such as [1e15, 1e16], or those that "
            "propose_budgets finds for your data and sizes"
        )
    return budgets


def recorded(sweep: SweepSettings) -> SweepSettings:
    """The settings as plan.json keeps them: Python objects are known by what ids know of them."""
    return replace(
        sweep,
        workers=sweep.workers or 1,
        held_out=sweep.held_out if isinstance(sweep.held_out, float) else None,
        learning_rate_rule=None,
        batch_rule=None,
        metrics={},
        schedule={},
        fit={},
        logger=None,
        executor=None,
    )


def size_argument(name: str, face: FaceSettings) -> SizeSpec:
    """The argument that scales the model, with its range."""
    from flops_fit.training.family import LARGEST_SIZE, SizeSpec

    largest = LARGEST_SIZE if face.max_size is None else face.max_size
    return SizeSpec(name, min=face.min_size, max=largest)


def plan_without_data(
    model_cls: ModelFactory, size: SizeSpec, face: FaceSettings, settings: SweepSettings
) -> Plan:
    """The sweep for data that never ends; C = 6ND, since nothing can be counted."""
    from flops_fit.building.from_objects import model_factory
    from flops_fit.building.ingredients import sweep
    from flops_fit.training.family import family_without_data

    tokens_per_sample = settings.tokens_per_sample or 1
    factory = model_factory(model_cls, face.model_kwargs or {})
    family = family_without_data(factory, size, tokens_per_sample)
    flops = FormulaFlops(settings.flops_per_param_per_token)
    knobs = sweep(settings, Rules(), trunks=None)
    return plan_sweep(knobs, family, DataShape(tokens_per_sample, None), flops)


def method(fit: Any) -> Any:
    """The method that answers: an option of configs/fit by name, or an object."""
    return chosen("fit", fit or DEFAULT_FIT) if fit is None or isinstance(fit, str) else fit


def called(group: str, part: Any, nothing: str) -> Any:
    """An option of a config group by name, or an object; None for the one that is `nothing`."""
    if isinstance(part, str):
        return None if part == nothing else chosen(group, part)
    return part


def warned(text: str) -> None:
    """As a warning of Python's, seen where `find_optimal` was called."""
    warnings.warn(text, stacklevel=4)


def fit_table(
    path: Asked, output_dir: str | Path | None = None, **settings: Unpack[FitKeywords]
) -> Study:
    """The law of anyone's table of runs, two of N, D and C and the loss in it: a file, a folder or
    several files, of CSV, JSON, Markdown, Parquet or Excel.

    `columns` maps our names to the table's, such as {"loss": "val_loss"}; the other settings are
    those of `flops-fit fit` (docs/settings.md). law.json and runs.csv are kept under `output_dir`
    (None: one of its name in outputs). Raises `FitError` where the table can't be read; where no
    method gives a law the study has none, and `refusal` says why.
    """
    check_names(settings, TableFitSettings)
    table = from_keywords(TableFitSettings, settings, {})
    name = name_of(path, table_files(path))
    folder = Path(output_dir or Path(PlaceSettings.output_root) / name)
    select = settings.get("select") or DEFAULT_SELECT
    how = Fitting(
        answer=method(settings.get("fit")),
        draws=table.draws,
        seed=table.seed,
        select=chosen("select", select) if isinstance(select, str) else select,
        metric=table.metric,
    )
    to_fit = table_to_fit(path, table, folder.parent, folder.name, say)
    return Study(fit_again(to_fit, how, say))


def load_law(path: str | Path) -> ScalingLaw:
    """The law of a law.json, of the folder it is in, or of a study's folder.

    Raises `StudyError` where there is none.
    """
    path = Path(path)
    if path.is_file():
        if path.name == LAW_FILE:  # with the draws beside it
            return ScalingLaw.load(path.parent)
        with reading(path, "law"):
            return ScalingLaw.from_json(read_record(path))
    for folder in (path, path / "latest"):
        if (folder / LAW_FILE).exists():
            return ScalingLaw.load(folder)
    if path.is_dir():
        return ScalingLaw.load(StudyFolder(path).latest_plan_folder())
    raise StudyError(f"{path} does not exist: give a law.json, or the folder of a study")


def _whole_signature() -> inspect.Signature:
    """Every setting with its default, for help(find_optimal) and completion."""
    explicit = inspect.signature(_implementation)
    parameters = [p for p in explicit.parameters.values() if p.kind is not p.VAR_KEYWORD]
    names = {p.name for p in parameters}
    further = [
        inspect.Parameter(
            s.name, inspect.Parameter.KEYWORD_ONLY, default=s.default, annotation=s.python
        )
        for cls in (FaceSettings, SweepSettings)
        for s in declared(cls)
        if s.python and s.name not in names
    ]
    return explicit.replace(parameters=[*parameters, *further])


_implementation: Any = find_optimal
_implementation.__signature__ = _whole_signature()
