"""One file a family of commands: its options (a frozen dataclass) and a function that runs it.

A new command is such a pair and one line in the table of `edgemt/cli.py`. Nothing heavy is imported before it runs.
"""
