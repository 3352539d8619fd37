"""Networks of many kinds with random weights, for `benchmarks/coverage.py`."""
