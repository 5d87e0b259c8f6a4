"""The command line."""

from flops_fit.cli.dispatch import main

__all__ = ["main"]
