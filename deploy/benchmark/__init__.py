"""Latency, measured honestly: rounds in turns, percentiles, cold start, long runs."""
