"""Benchmarks are scripts: `make bench` runs them, pytest does not look at them."""

collect_ignore_glob = ["*.py"]
