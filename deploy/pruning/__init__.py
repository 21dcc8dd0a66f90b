"""Structured pruning by parameters, operations or measured latency."""
