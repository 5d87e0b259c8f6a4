"""Loggers: curves of runs, the answer and its figures in the tools that people watch training with.

Each is a small frozen dataclass, called with the study's folder, that returns a `Log`.
"""

from flops_fit.report.loggers.mlflow import Mlflow
from flops_fit.report.loggers.tensorboard import TensorBoard
from flops_fit.report.loggers.wandb import Wandb

__all__ = ["Mlflow", "TensorBoard", "Wandb"]
