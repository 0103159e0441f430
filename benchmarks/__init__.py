"""Speed claims and how to check them: `make bench`. Not tests; see `timing.py` for the method."""
