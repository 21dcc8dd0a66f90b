"""Benchmarks of packages and runners: bench record, cold start, soak test, comparison of records."""
