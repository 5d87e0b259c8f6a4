"""Exit codes of the command line."""

OK, ERROR, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

NO_LAW = SOME_FAILED
"""The runs gave no law, whether or not they failed: both are sweeps that are not what was asked."""
