"""Every architecture built for ``tensorrt-rtx``, on a machine without a GPU: what is parsed, how
large it gets.

MCAR's smallest network is built in every precision; ``EDGE_ALL_ENGINES=1`` builds the others too,
as continuous integration does.
"""

from __future__ import annotations

import os

import pytest

from edge import Engine, backends
from edge.errors import EdgeError
from edge.graph import CLOSER, LOOK
from edge.pipeline import BuildOptions, build

pytest.importorskip("tensorrt_rtx")

# (network, size) → convolutions, of both streams and the classifier's three.
NETWORKS = {
    ("mcar-mobilenetv2", 256): 107,
    ("mcar-resnet50", 256): 109,
    ("mcar-resnet101", 256): 211,
    ("mcar-resnet101", 448): 211,
}
LONG = pytest.mark.skipif(os.environ.get("EDGE_ALL_ENGINES") != "1", reason="takes long: EDGE_ALL_ENGINES=1 builds it")
FLOAT_CONVOLUTIONS = 3  # the classifier, which scores and maps come from
ALWAYS = {("mcar-mobilenetv2", 256, precision) for precision in ("fp32", "fp16", "int8")}
# network → convolutions, and how many of them stay float: a classifier that is one.
OTHERS = {"rma-mobilenetv2": (52, 0), "aamn-mobilenetv2": (59, 1), "plain-mobilenetv2": (53, 1)}
# Largest payload as a share of the weights in float32, which each stage holds. Kernels' sources
# weigh as much as a small network's weights.
SHARES = {"fp32": (2.0, 2.0), "fp16": (1.05, 1.0), "int8": (0.75, 0.55)}


def cases():
    for model, size in NETWORKS:
        for precision in ("fp32", "fp16", "int8"):
            marks = [] if (model, size, precision) in ALWAYS else [LONG]
            yield pytest.param(model, size, precision, marks=marks, id=f"{model}-{size}-{precision}")


def built(model, size, precision, folder):
    options = {"model": model, "weights": "random", "size": size, "precision": precision, "calib_images": 2, "output": folder}
    # What is fitted changes numbers only, and takes most of the time.
    return build(BuildOptions(**options, **({"repair": ()} if precision == "int8" else {}), backend="tensorrt-rtx"))


@pytest.mark.parametrize(("model", "size", "precision"), [*cases()])
def test_a_network_is_built_without_a_gpu_and_shrinks_with_its_precision(model, size, precision, tmp_path):
    folder = tmp_path / "bundle"
    bundle = built(model, size, precision, folder)
    look, closer = (bundle.manifest["engine"]["stages"][stage]["network"] for stage in (LOOK, CLOSER))

    assert look["convolutions"] + closer["convolutions"] == NETWORKS[model, size]
    in_int8 = NETWORKS[model, size] - FLOAT_CONVOLUTIONS if precision == "int8" else 0
    assert look["int8_convolutions"] + closer["int8_convolutions"] == in_int8
    # Boxes and crops are standard nodes, and nothing in them has a shape that depends on data.
    assert "TOPK" in look["kinds"]
    assert "MATRIX_MULTIPLY" in closer["kinds"]
    for network in (look, closer):
        assert not {"NON_ZERO", "LOOP", "CUMULATIVE", "GRID_SAMPLE", "PLUGIN_V3"} & set(network["kinds"])
        types = network["types"]
        assert ("HALF" in types) == (precision != "fp32")
        assert ("INT8" in types) == (precision == "int8")
        assert types["FLOAT"] > 0

    weights = (folder / "reference.onnx").stat().st_size
    small, large = SHARES[precision]
    assert bundle.bytes < (small if model == "mcar-mobilenetv2" else large) * weights

    if backends.probe("tensorrt-rtx").reason:
        with pytest.raises(EdgeError, match="no GPU answers") as refused:
            Engine.load(folder)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("precision", [pytest.param("fp16", marks=LONG), "int8"])
@pytest.mark.parametrize("model", OTHERS)
def test_an_architecture_of_one_pass_is_built_too(model, precision, tmp_path):
    network = built(model, 256, precision, tmp_path / "bundle").manifest["engine"]["network"]
    convolutions, in_float = OTHERS[model]
    assert network["convolutions"] == convolutions
    assert network["int8_convolutions"] == (convolutions - in_float if precision == "int8" else 0)
    assert not {"NON_ZERO", "LOOP", "CUMULATIVE", "GRID_SAMPLE", "PLUGIN_V3"} & set(network["kinds"])
