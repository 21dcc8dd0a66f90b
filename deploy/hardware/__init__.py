"""Readings of the machine: processors, memory, clocks, temperature, energy."""
