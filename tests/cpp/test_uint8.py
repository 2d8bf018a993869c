"""Engines that take bytes, in C++: what Python gives, from the same pixels; and the other form is
refused."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest

from edge import Engine
from edge.image import preprocess
from edge.pipeline import BuildOptions, rebuild

NAMES = ("scores", "global_scores", "local_scores", "regions", "region_classes")


@pytest.fixture(scope="module")
def bytes_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rebuild(bundle, BuildOptions(input="uint8", output=tmp_path_factory.mktemp("uint8") / "bundle")).path


@pytest.fixture(scope="module")
def native(open_native, bytes_bundle: Path):
    return open_native(bytes_bundle)


def infer(native, batch: np.ndarray) -> dict[str, np.ndarray]:
    count, classes, regions = len(batch), len(native.labels), native.regions
    shapes = dict.fromkeys(NAMES[:3], (np.float32, (count, classes)))
    shapes |= {"regions": (np.float32, (count, regions, 4)), "region_classes": (np.int64, (count, regions))}
    made = {name: np.empty(shape, kind) for name, (kind, shape) in shapes.items()}
    outputs = (ctypes.c_void_p * len(NAMES))(*(made[name].ctypes.data for name in NAMES))
    rest = ctypes.c_double(-1), ctypes.c_double(-1), ctypes.byref(outputs), None
    native.require(native.api.edge_engine_infer_uint8(native.handle, batch.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(count), *rest))
    return made


def resized(native, photo: np.ndarray) -> np.ndarray:
    made = np.empty((64, 64, 3), np.uint8)
    height, width = photo.shape[:2]
    pointers = photo.ctypes.data_as(ctypes.c_void_p), width, height, ctypes.c_size_t(width * 3), made.ctypes.data_as(ctypes.c_void_p)
    native.require(native.api.edge_engine_preprocess_uint8(native.handle, *pointers))
    return made


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_numbers_as_python(bytes_bundle: Path, native, count: int) -> None:
    batch = np.random.default_rng(count).integers(0, 256, (count, 64, 64, 3), np.uint8)
    assert native.api.edge_engine_takes_uint8(native.handle) == 1
    with Engine.load(bytes_bundle) as engine:
        expected = engine.infer(batch)
    found = infer(native, batch)
    for name in NAMES:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_photograph_is_resized_and_recognised_as_in_python(bytes_bundle: Path, native, corpus: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    file = next(path for path in sorted((corpus / "image").iterdir()) if path.suffix == ".png")
    with Engine.load(bytes_bundle) as engine:
        np.testing.assert_array_equal(resized(native, photo), preprocess(photo, engine.bundle.image))
        (expected,) = engine.predict([file])
    np.testing.assert_allclose(native.predict(file)["scores"], expected.scores, atol=1e-5)


def test_the_other_form_is_refused_in_both_directions(bundle: Path, native, open_native) -> None:
    with pytest.raises(RuntimeError, match=r"takes \(B, 64, 64, 3\) uint8, not floats"):
        native.infer(np.zeros((1, 3, 64, 64), np.float32))
    floats = open_native(bundle)
    assert floats.api.edge_engine_takes_uint8(floats.handle) == 0
    with pytest.raises(RuntimeError, match=r"takes \(B, 3, 64, 64\) float32, not bytes"):
        infer(floats, np.zeros((1, 64, 64, 3), np.uint8))


def test_a_manifest_of_another_input_is_refused(bytes_bundle: Path, tmp_path: Path, rewrite, open_native) -> None:
    import shutil

    copied = Path(shutil.copytree(bytes_bundle, tmp_path / "bundle"))
    for value, said in (("bf16", "not float32 or uint8"), ("float32", "image is u8")):
        rewrite(copied, {}, lambda manifest, value=value: manifest["image"].update(input=value))
        with pytest.raises(RuntimeError, match=said):
            open_native(copied)


def test_the_bench_feeds_bytes(runtime, bytes_bundle: Path, tmp_path: Path, run) -> None:
    batch = np.random.default_rng(5).integers(0, 256, (2, 64, 64, 3), np.uint8)
    (tmp_path / "images").write_bytes(batch.tobytes())
    words = ["--images", tmp_path / "images", "--outputs", tmp_path / "out", "--batch", "2", "--iterations", "3", "--warmup", "1"]
    run(runtime.prefix / "bin" / "mcar_edge_bench", bytes_bundle, *words, "--json", tmp_path / "result.json")
    with Engine.load(bytes_bundle) as engine:
        expected = engine.infer(batch)["scores"]
    found = np.frombuffer((tmp_path / "out" / "scores.bin").read_bytes(), np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert json.loads((tmp_path / "result.json").read_text())["size"] == 64
