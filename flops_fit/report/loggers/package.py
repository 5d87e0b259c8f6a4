"""The package of a logger, an optional extra."""

from __future__ import annotations

from importlib.util import find_spec

from flops_fit.errors import ConfigError


def check_package(name: str) -> None:
    """Raises `ConfigError` where the package is not installed, before anything trains."""
    if find_spec(name) is None:
        raise ConfigError(
            f"logger={name} needs the package {name}: pip install 'flops-fit[{name}]', or leave "
            "logger out"
        )
