"""The runs of a study, also as a table for dataframes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flops_fit.errors import ConfigError
from flops_fit.plan.run import Run

if TYPE_CHECKING:
    import pandas as pd


class Runs(tuple[Run, ...]):
    """The runs of a study, in the order of its plan."""

    __slots__ = ()

    def to_dicts(self) -> list[dict[str, Any]]:
        """One flat dict per run: what polars.DataFrame(...) and others make a table of."""
        return [_flat(run) for run in self]

    def to_pandas(self) -> pd.DataFrame:
        """A row per run, a column for each of its numbers. Raises `ConfigError` without pandas."""
        try:
            import pandas as pd
        except ImportError as error:
            raise ConfigError(
                "pandas is not installed: `pip install pandas`, or make a table of runs.to_dicts()"
            ) from error
        return pd.DataFrame(self.to_dicts())


def _flat(run: Run) -> dict[str, Any]:
    values = {k: v for k, v in vars(run).items() if k not in ("size", "metrics", "versions")}
    size = {} if run.size is None else {"size_name": run.size.name, "size_value": run.size.label}
    return {**values, **size, **{f"metrics.{name}": value for name, value in run.metrics.items()}}
