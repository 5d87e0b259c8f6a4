"""flops-fit: how large a model, on how many tokens, to what loss, and how sure."""

from importlib.metadata import version
from typing import Any

__version__ = version("flops-fit")
__all__ = ["Study", "find_optimal"]


def __getattr__(name: str) -> Any:
    """`find_optimal` on first use, so that the half of the package without torch stays light."""
    if name in __all__:
        from flops_fit import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
