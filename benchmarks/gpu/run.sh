#!/bin/sh
# Builds, checks and times the kernels on this machine: one JSON file and one Markdown table, in $OUT or benchmarks/results.
# Needs Python 3.10 with torch and torchvision, nvcc and g++. Optional: compute-sanitizer, and TENSORRT_INCLUDE_DIR for the
# plugin. Without a GPU only the CPU part runs and the rest is named as missing.
set -eu
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" benchmarks/gpu/run.py "$@"
