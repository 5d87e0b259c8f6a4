"""Runs in and out of tables: anyone's, with named columns, and our runs.csv."""

from flops_fit.tables.columns import COMMON_NAMES, Named
from flops_fit.tables.files import Asked, name_of, table_files
from flops_fit.tables.flop_rules import table_flop_rule
from flops_fit.tables.reading import AS_WRITTEN, RunTable, read_table
from flops_fit.tables.rows import BITS, NATS, bits_per_byte
from flops_fit.tables.study_curves import checkpoints_of, training_curve
from flops_fit.tables.writing import write_runs

__all__ = [
    "AS_WRITTEN",
    "BITS",
    "COMMON_NAMES",
    "NATS",
    "Asked",
    "Named",
    "RunTable",
    "bits_per_byte",
    "checkpoints_of",
    "name_of",
    "read_table",
    "table_files",
    "table_flop_rule",
    "training_curve",
    "write_runs",
]
