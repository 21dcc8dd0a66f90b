"""The thread and the child process that turn frames into masks."""
