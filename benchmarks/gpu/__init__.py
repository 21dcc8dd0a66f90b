"""The measurements of a GPU machine, in parts that end within a budget of seconds and resume: `benchmarks/gpu/run.sh`.

`plan.py` lists the parts, `__main__.py` runs each in a process of its own, `environment.py` finds what the machine
lacks, `record.py` is the JSON file that each part leaves, `table.py` makes one page of them. The other modules are the
parts; each has `--help`.
"""
