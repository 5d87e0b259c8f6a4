"""What each verb does with its composed config, a function of the verb's name each."""

from flops_fit.cli.answers import compare, report, status
from flops_fit.cli.fit import fit
from flops_fit.cli.predict import predict
from flops_fit.cli.sweeps import plan, print_variants, train, verify

__all__ = [
    "compare",
    "fit",
    "plan",
    "predict",
    "print_variants",
    "report",
    "status",
    "train",
    "verify",
]
