"""Experiments, one file each: plain arguments in, an `Outcome` out (numbers, report sections, arrays)."""
