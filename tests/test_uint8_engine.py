"""Engines that take bytes: the same answers, a quarter of the input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge.bundle import Bundle
from edge.engine import Engine
from edge.errors import EdgeError
from edge.image import preprocess
from edge.pipeline import BuildOptions, rebuild


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def pair(request, small_bundle, tmp_path_factory):
    """Bundles of the same weights: float32 in, uint8 in."""
    floats = small_bundle(request.param)
    bytes_ = tmp_path_factory.mktemp("engines") / request.param
    rebuild(floats, BuildOptions(input="uint8", output=bytes_))
    return floats, bytes_


def scenes(count: int) -> list[np.ndarray]:
    from edge.data import open_dataset

    dataset = open_dataset("scenes", "test")
    return [dataset[index].image for index in range(count)]


def boxes(prediction) -> list[tuple[float, ...]]:
    return [region.box for region in prediction.regions]


def test_scores_are_those_of_float_input(pair):
    photos = scenes(8)
    with Engine.load(pair[0]) as floats, Engine.load(pair[1]) as bytes_:
        assert bytes_.bundle.image == replace(floats.bundle.image, input="uint8")
        same = 0
        for expected, found in zip(floats.predict(photos), bytes_.predict(photos), strict=True):
            # Random weights rank classes that differ in the last bits: then other regions are
            # looked at.
            if found.regions[0].label == expected.regions[0].label and boxes(found) == boxes(expected):
                np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
                same += 1
        assert same >= 5
        batch = np.stack([preprocess(photo, bytes_.bundle.image) for photo in photos[:2]])
        assert (batch.dtype, batch.shape) == (np.uint8, (2, 64, 64, 3))
        normalised = np.stack([preprocess(photo, floats.bundle.image) for photo in photos[:2]])
        expected, found = floats.infer(normalised, effort=0), bytes_.infer(batch, effort=0)
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)


def test_the_batch_is_what_pillow_resizes_to(pair):
    photo = scenes(1)[0]
    with Engine.load(pair[1]) as engine:
        batch = preprocess(photo, engine.bundle.image)
    assert (batch == np.asarray(Image.fromarray(photo).resize((64, 64), Image.Resampling.BILINEAR))).all()


def test_floats_are_refused_and_the_form_named(pair):
    with Engine.load(pair[1]) as engine, pytest.raises(EdgeError, match=r"the engine takes uint8 \(B, 64, 64, 3\)"):
        engine.infer(np.zeros((1, 3, 64, 64), np.float32))


def test_graph_reference_and_calibration_stay_those_of_floats(pair):
    floats, bytes_ = map(Bundle.read, pair)
    for name in ("graph.onnx", "reference.onnx"):
        assert bytes_.read_file(name) == floats.read_file(name)
    assert bytes_.graph().image == floats.graph().image == floats.image


def test_a_rebuild_keeps_the_input(pair, tmp_path):
    made = rebuild(pair[1], BuildOptions(batch=2, output=tmp_path / "again"))
    assert made.image.input == "uint8"
    with Engine.load(made.path) as engine:
        engine.infer(np.zeros((2, 64, 64, 3), np.uint8))


def test_a_manifest_that_says_another_input_than_the_engine_has_is_refused(pair, tmp_path):
    import shutil

    folder = Path(shutil.copytree(pair[1], tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["image"]["input"] = "float32"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EdgeError, match=r"image of the engine .* is uint8 \(B, 64, 64, 3\); its manifest describes float32"):
        Engine.load(folder)
    for wrong in ("bf16", 3):
        manifest["image"]["input"] = wrong
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(EdgeError):
            Bundle.read(folder)
