#!/bin/sh
# Checks and times the kernels, builds and times whole networks on this machine's GPU: one JSON file and one Markdown table, in $OUT
# or benchmarks/results, within ten minutes; every stage has a limit, and what was found stays (benchmarks/gpu/run.py lists them).
#   benchmarks/gpu/run.sh --pack DIR         on a host with network: makes what the other machine needs, in parts
#   benchmarks/gpu/run.sh --from DIR         there: Python 3.10 with torch, numpy, onnx and onnxruntime; nvcc; no network
#   benchmarks/gpu/run.sh --only STAGE,…     some of the stages
#   benchmarks/gpu/run.sh --rehearse         every stage on the CPU, as far as it goes, with stand-ins
set -eu
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" -m benchmarks.gpu.run "$@"
