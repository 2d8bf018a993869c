"""What an engine is made of, read from the inspector's JSON in the forms of both major versions."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from edge.backends import describe_engine
from edge.backends.trt.layers import parse_layers
from edge.errors import EdgeError

INSPECTED = Path(__file__).parent / "inspected" / "tensorrt-8.6-mobilenetv2-256-fp32.json.gz"
# (kind, what the first input holds, what the first output holds), as the inspector words them.
LAYERS = [
    ("Reformat", "Row major linear FP32", "Row major linear FP16 format"),
    ("Reformat", "Row major linear FP16 format", "Channel major FP16 format where channel % 8 == 0"),
    ("CaskConvolution", "Channel major Int8 format where channel % 16 == 0", "Channel major FP16 format where channel % 8 == 0"),
    ("CaskConvolution", "Channel major FP16 format where channel % 8 == 0", "Channel major FP16 format where channel % 8 == 0"),
    ("CudaPooling", "Thirty-two wide channel vectorized row major Int8 format", "Int8"),
    ("PluginV3", "Row major linear FP32", "Row major linear FP32"),
    ("TopK", "Float", "Int32"),
    ("Cast", "BFloat16", "UInt8"),
]


def test_what_a_real_engine_answered_is_read():
    text = gzip.decompress(INSPECTED.read_bytes()).decode()
    assert "\x1e" in text, "strict JSON has no raw control characters"
    layers = parse_layers(text)
    assert layers.plain() == {"layers": 374, "precisions": {"fp32": 374}, "reformats": 12, "casts": 0, "int8_share": 0.0}
    kinds = Counter(layer.kind for layer in layers.layers)
    assert kinds["NoOp"] == 132
    assert kinds["CaskConvolution"] + kinds["CaskGemmConvolution"] == 214
    assert sum(layer.kind == "PluginV2" for layer in layers.layers) == 4  # both operations in both profiles


def sentence(words):
    return {"Name": "t", "Format/Datatype": words}


def split(words):
    names = {"FP32": "Float", "FP16": "Half"}
    kind = next((names.get(each, each) for each in words.split() if each in ("FP32", "FP16", "Int8")), words)
    return {"Name": "t", "Datatype": kind, "Format": "N/A" if kind == words else "NHWC"}


@pytest.mark.parametrize("tensor", [sentence, split])
def test_both_major_versions_give_the_same_account(tensor):
    listed = [
        {"Name": f"layer{i}", "LayerType": kind, "Inputs": [tensor(source)], "Outputs": [tensor(result)]}
        for i, (kind, source, result) in enumerate(LAYERS)
    ]
    layers = parse_layers(json.dumps({"Layers": listed, "Bindings": ["image"]}))
    assert [layer.precision for layer in layers.layers] == ["fp32", "fp16", "int8", "fp16", "int8", "fp32", "fp32", "bf16"]
    assert layers.plain() == {
        "layers": 8,
        "precisions": {"bf16": 1, "fp16": 2, "fp32": 3, "int8": 2},
        "reformats": 1,
        "casts": 2,
        "int8_share": 0.5,
    }
    assert layers.layers[-2].output == "int32"
    assert describe_engine("tensorrt", {"layers": layers.plain()}) == [
        "engine: 8 layers (1 bf16, 2 fp16, 3 fp32, 2 int8), 1 reformats, 2 casts; 50% of the convolutions read int8"
    ]


def test_what_convolutions_read_may_be_unknown():
    """TensorRT 8.6 tells no type of an engine whose sizes are open: a share of 0 would be wrong."""
    unknown = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "N/A"}], "Outputs": []}
    layers = parse_layers(json.dumps({"Layers": [unknown]}))
    assert layers.int8_share is None
    told = {**unknown, "Inputs": [sentence("int8")]}
    assert parse_layers(json.dumps({"Layers": [unknown, told]})).int8_share == 1


def test_engines_without_detail_hold_names_only():
    layers = parse_layers('{"Layers": ["conv1", "conv2"], "Bindings": []}')
    assert [layer.name for layer in layers.layers] == ["conv1", "conv2"]
    assert layers.int8_share is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "not JSON", '{"Layers": 1}', '{"Layers": [1]}', '{"Layers": [{"Inputs": ["image"]}]}'])
def test_another_answer_is_refused(text):
    with pytest.raises(EdgeError, match="inspector"):
        parse_layers(text)
