"""`python -m flops_fit` is `flops-fit`."""

import sys

from flops_fit.cli import main

if __name__ == "__main__":
    sys.exit(main())
