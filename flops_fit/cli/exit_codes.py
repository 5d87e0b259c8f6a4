"""Exit codes of the command line."""

OK, ERROR, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
