"""Where runs are trained, other than in processes of this machine."""

from flops_fit.executors.slurm import Slurm

__all__ = ["Slurm"]
