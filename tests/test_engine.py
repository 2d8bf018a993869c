"""A loaded engine: what it takes, what it refuses, and that a bundle is checked before it is
believed."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from edge import Engine
from edge.bundle import Bundle
from edge.errors import EdgeError
from edge.image import preprocess


@pytest.fixture(params=["openvino", "onnxruntime"])
def bundle(request, small_bundle):
    return small_bundle(request.param)


@pytest.fixture
def engine(bundle):
    with Engine.load(bundle) as loaded:
        yield loaded


@pytest.fixture
def copied(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "bundle")


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((3, 64, 64), np.float32),
        np.zeros((1, 3, 64, 96), np.float32),
        np.zeros((1, 3, 64, 64), np.float64),
        np.zeros((0, 3, 64, 64), np.float32),
        np.zeros((4, 3, 64, 64), np.float32),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(engine, batch):
    with pytest.raises(EdgeError, match=r"\[infer\]"):
        engine.infer(batch)


def test_a_strided_batch_is_taken(engine):
    batch = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(engine.infer(batch)["scores"], engine.infer(np.ascontiguousarray(batch))["scores"])


def test_outputs_are_the_callers_to_keep(engine):
    images = np.random.default_rng(0).standard_normal((2, 1, 3, 64, 64)).astype(np.float32)
    first = engine.infer(images[0])
    kept = {name: value.copy() for name, value in first.items()}
    engine.infer(images[1])
    for name, value in first.items():
        np.testing.assert_array_equal(value, kept[name])


def test_predict_takes_paths_images_and_arrays_in_any_number(engine, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predictions = engine.predict([tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, pixels])
    assert len(predictions) == 5
    out = engine.infer(preprocess(pixels, engine.bundle.image)[None])
    for prediction in predictions:
        np.testing.assert_allclose(prediction.scores, out["scores"][0], atol=1e-5)
        assert [region.label for region in prediction.regions] == [engine.labels[index] for index in out["region_classes"][0]]
        for region, box in zip(prediction.regions, out["regions"][0], strict=True):
            np.testing.assert_allclose(region.box, box * np.array([80, 50, 80, 50]) / 64, rtol=1e-5)
            assert region.score == pytest.approx(float(out["scores"][0][engine.labels.index(region.label)]), abs=1e-5)


def test_labels_are_those_at_or_above_the_threshold_best_first(engine):
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    scores = engine.predict([pixels])[0].scores
    cut = float(np.sort(scores)[-3])
    labels = engine.predict([pixels], score_threshold=cut)[0].labels
    assert [name for name, _ in labels] == [engine.labels[index] for index in np.argsort(-scores, kind="stable")[:3]]


def test_a_closed_engine_refuses(bundle):
    engine = Engine.load(bundle)
    engine.close()
    engine.close()
    with pytest.raises(EdgeError, match="closed"):
        engine.infer(np.zeros((1, 3, 64, 64), np.float32))


def test_threads_share_an_engine(engine):
    images = np.random.default_rng(2).standard_normal((16, 1, 3, 64, 64)).astype(np.float32)
    serial = [engine.infer(image)["scores"] for image in images]
    with ThreadPoolExecutor(4) as pool:
        for expected, found in zip(serial, pool.map(lambda image: engine.infer(image)["scores"], images), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_every_file_of_a_bundle_is_checked(copied):
    for name in Bundle.read(copied).manifest["files"]:
        path = copied / name
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(EdgeError, match="changed or truncated"):
            Engine.load(copied)
        path.write_bytes(data)
    Engine.load(copied).close()


def rewrite(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    for key, value in changes.items():
        manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"machine": {"architecture": "aarch64"}}, "aarch64"),
        ({"target": {"backend": "hailo"}}, "openvino, onnxruntime"),
        ({"target": {"precision": "int4"}}, "fp32, fp16 or int8"),
        ({"target": {"batches": []}}, "ascending"),
        ({"target": {"float16": "fp8"}}, "fp8"),
        ({"tools": {"openvino": "1999.1", "onnxruntime": "0.1"}}, "--from"),
        ({"image": {"size": 100}}, "multiple of 32"),
        ({"model": {"labels": []}}, "labels"),
        ({"model": "mcar"}, "describe"),
        ({"target": {"surprise": 1}}, "describe"),
    ],
)
def test_a_bundle_that_does_not_fit_says_why_before_loading(copied, changes, says):
    rewrite(copied, **changes)
    with pytest.raises(EdgeError, match=says) as caught:
        Engine.load(copied)
    assert "\n" not in str(caught.value)


def test_a_folder_without_manifest_is_no_bundle(tmp_path):
    with pytest.raises(EdgeError, match=r"python -m edge\.build"):
        Engine.load(tmp_path)


@pytest.mark.parametrize(("reduced", "refused"), [(False, True), (True, False), (None, False)])
def test_weights_of_eight_bits_are_refused_where_two_products_are_added_in_sixteen(small_bundle, tmp_path, monkeypatch, reduced, refused):
    copied = shutil.copytree(small_bundle("onnxruntime"), tmp_path / "bundle")
    rewrite(copied, target={"reduced_range": reduced})
    Bundle.read(copied).verify()
    monkeypatch.setattr("edge.backends.onnxruntime.needs_reduced_range", lambda: True)
    if refused:
        with pytest.raises(EdgeError, match=rf"VNNI.*avx512_vnni.*edge\.build --from {copied} --force"):
            Engine.load(copied)
    else:
        Engine.load(copied).close()


def test_predict_takes_one_image_and_any_iterable(engine, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    ones = [str(path), path, data, bytearray(data), io.BytesIO(data), open(path, "rb"), Image.open(path), pixels]  # noqa: SIM115
    several = [[path] * 5, (path,) * 5, (path for _ in range(5)), np.stack([pixels] * 5), dict.fromkeys([str(path)]), []]
    scores = engine.predict([pixels])[0].scores
    for images, count in [*((one, 1) for one in ones), *zip(several, (5, 5, 5, 5, 1, 0), strict=True)]:
        found = engine.predict(images)
        assert len(found) == count
        for each in found:
            np.testing.assert_allclose(each.scores, scores, atol=1e-4)


@pytest.mark.parametrize("images", [None, 3, [None], [[]], "nowhere.jpg", io.StringIO("text"), np.zeros((3, 4)), [b""], object()])
def test_what_is_no_image_is_refused_in_one_line(engine, images):
    with pytest.raises(EdgeError, match=r"^\[image\] .*\.$"):
        engine.predict(images)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), "0.5", [0.5]])
def test_a_threshold_that_is_no_probability_is_refused(engine, threshold):
    with pytest.raises(EdgeError, match="`score_threshold` is"):
        engine.predict([], score_threshold=threshold)


FORKED = """
import os, sys
from edge import EdgeError, Engine
try:
    Engine.load("nowhere")
except EdgeError:
    pass
child = os.fork()
if not child:
    with Engine.load(sys.argv[1]) as engine:
        os._exit(len(engine.labels))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_load_that_failed_binds_no_process(bundle):
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([sys.executable, "-c", FORKED, str(bundle)], env=given, capture_output=True, text=True, timeout=120)
    assert told.stdout == "20\n", told.stderr
