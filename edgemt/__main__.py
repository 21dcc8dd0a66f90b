"""The command `edgemt` as a module: `python -m edgemt`, or `torchrun --nproc-per-node 2 -m edgemt run RECIPE`."""

from edgemt.cli import main

if __name__ == "__main__":
    main()
