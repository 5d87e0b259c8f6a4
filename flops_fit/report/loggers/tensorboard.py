"""TensorBoard: event files that `tensorboard --logdir` shows, by torch's own writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flops_fit.files import within
from flops_fit.report.loggers.package import check_package
from flops_fit.store.protocols import Point, Scalar

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class TensorBoard:
    """A folder of events for each run under `folder`; None: under `tensorboard` in the study's."""

    folder: str | None = None

    def __post_init__(self) -> None:
        check_package("tensorboard")

    def __call__(self, study: Path) -> TensorBoardLog:
        return TensorBoardLog(Path(self.folder or within(study, "tensorboard")))


class TensorBoardLog:
    """Curves by step, settings and results as hyperparameters and their metrics."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}
        self._settings: dict[str, dict[str, Scalar]] = {}

    def begin(self, run: str, settings: Mapping[str, Scalar]) -> None:
        self._writers[run] = self._writer(run)
        self._settings[run] = dict(settings)

    def points(self, run: str, points: Sequence[Point]) -> None:
        writer = self._writers[run]
        for step, values in points:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
        writer.flush()

    def end(self, run: str, result: Mapping[str, Scalar], *, completed: bool) -> None:
        from torch.utils.tensorboard.summary import hparams

        writer, settings = self._writers.pop(run), self._settings.pop(run)
        numbers = {name: value for name, value in result.items() if not isinstance(value, str)}
        settings |= {name: value for name, value in result.items() if isinstance(value, str)}
        # Into the run's own file: `add_hparams` begins a second one, and where that sorts before
        # the first by its name, TensorBoard takes it for an earlier training and drops it.
        file = writer.file_writer
        assert file is not None  # it is open
        for summary in hparams(settings, numbers):
            file.add_summary(summary)
        for name, value in numbers.items():
            writer.add_scalar(name, value)
        writer.close()

    def answer(self, summary: Mapping[str, Scalar], figures: Sequence[Path]) -> None:
        from matplotlib.image import imread

        with self._writer("answer") as writer:
            rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in summary.items())
            writer.add_text("answer", f"| | |\n|---|---|\n{rows}")
            for path in figures:
                writer.add_image(f"figures/{path.stem}", imread(path)[..., :3], dataformats="HWC")

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, name: str) -> SummaryWriter:
        """What an earlier training of the run has logged is not shown beside."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder / name), purge_step=0)


def _cell(value: Scalar) -> str:
    return value.replace("|", "\\|") if isinstance(value, str) else f"{value:.6g}"
