"""Datasets that ship with flops-fit, and `as_source` for everybody else's."""

from flops_fit.datasets.adapters import FixedBatchSource, as_source
from flops_fit.datasets.batches import Batch
from flops_fit.datasets.hub import Hub
from flops_fit.datasets.images import Cifar10, Digits, Mnist, SyntheticImages
from flops_fit.datasets.source import Source
from flops_fit.datasets.text import PythonSource, Text
from flops_fit.datasets.tokens import Tokens
from flops_fit.datasets.toy import Toy

__all__ = [
    "Batch",
    "Cifar10",
    "Digits",
    "FixedBatchSource",
    "Hub",
    "Mnist",
    "PythonSource",
    "Source",
    "SyntheticImages",
    "Text",
    "Tokens",
    "Toy",
    "as_source",
]
