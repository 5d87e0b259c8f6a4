"""Training by a command of the user's own."""

from flops_fit.command.spec import CommandSpec
from flops_fit.command.trainer import CommandData, CommandTrainer

__all__ = ["CommandData", "CommandSpec", "CommandTrainer"]
