"""The training engine: one step, the loop, checkpoints, processes, progress."""
