"""How data sets lie on disk: detection of a layout, and the readers of each one."""
