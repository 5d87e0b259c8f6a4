"""Training by a command of the user's own."""

from flops_fit.command.spec import CommandSpec
from flops_fit.command.trainer import CHANGE_NO_RESULT, FOR_THE_PLAN, CommandTrainer

__all__ = ["CHANGE_NO_RESULT", "FOR_THE_PLAN", "CommandSpec", "CommandTrainer"]
