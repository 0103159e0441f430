"""`python -m diffrep` is `diffrep`."""

import sys

from diffrep.cli import main

if __name__ == "__main__":
    sys.exit(main())
