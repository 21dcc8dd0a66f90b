#!/usr/bin/env bash
# The measurements of a GPU machine, part by part: benchmarks/gpu/run.sh --help
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PYTHONPATH="$root:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -P -m gpu "$@"
