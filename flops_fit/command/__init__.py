"""Training by a command of the user's own."""

from flops_fit.command.trainer import CHANGE_NO_RESULT, FOR_THE_PLAN, CommandSpec, CommandTrainer

__all__ = ["CHANGE_NO_RESULT", "FOR_THE_PLAN", "CommandSpec", "CommandTrainer"]
