"""The machine: processors, memory, clocks, energy."""
