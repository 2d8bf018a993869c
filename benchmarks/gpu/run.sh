#!/bin/sh
# Builds, checks and times the kernels and whole networks on this machine: one JSON file and one Markdown table, in $OUT or
# benchmarks/results. Ends within BUDGET_S seconds (default 1500), whatever happens, and keeps what it found until then.
#   benchmarks/gpu/run.sh --check    only says what is missing here, and which step goes without it
#   benchmarks/gpu/run.sh --train    also trains two epochs on the GPU
# Needs Python 3.10; with torch, torchvision, nvcc and g++ everything about kernels runs. TensorRT-RTX, TensorRT, cuda-bindings,
# onnx, onnxscript and onnxruntime add whole networks; TENSORRT_INCLUDE_DIR and cmake the plugin. Without a GPU the CPU part runs.
set -eu
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" benchmarks/gpu/run.py "$@"
