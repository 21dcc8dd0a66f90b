"""One file a family of commands: what can be asked for (a frozen dataclass) and a function that carries it out.

A new command is such a pair and one line in the table of `edgemt/cli.py`. Nothing heavy is imported before it runs.
"""
