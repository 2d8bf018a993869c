"""The C++ runtime against the Python package: same bundle, same results; and what it refuses."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from edge import Engine, __version__
from edge.errors import EdgeError
from edge.image import decode, preprocess
from edge.pipeline import BuildOptions, build

IMAGES = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
OUTPUTS = {
    "plain": {"scores"},
    "aamn": {"scores"},
    "rma": {"scores", "regions", "region_classes"},
    "mcar": {"scores", "global_scores", "local_scores", "regions", "region_classes"},
}


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    with Engine.load(bundle) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def native(open_native, bundle: Path):
    return open_native(bundle)


@pytest.fixture(scope="module")
def pictures(corpus: Path) -> dict[str, Path]:
    """Generated images of every kind the runtime decodes."""
    return {path.name: path for path in (corpus / "image").iterdir() if path.suffix in (".jpg", ".png")}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_numbers_as_python_on_the_same_input(engine: Engine, native, count: int) -> None:
    batch = np.random.default_rng(count).standard_normal((count, 3, 64, 64)).astype(np.float32)
    expected, found = engine.infer(batch), native.infer(batch)
    assert native.labels == engine.labels
    for name in OUTPUTS["mcar"]:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_batch_between_two_sizes_is_padded(copied: Path, rewrite, open_native, native) -> None:
    rewrite(copied, {}, lambda manifest: manifest["target"].update(batches=[1, 3]))
    sparse = open_native(copied)
    batch = np.random.default_rng(7).standard_normal((2, 3, 64, 64)).astype(np.float32)
    for name, value in native.infer(batch).items():
        np.testing.assert_allclose(sparse.infer(batch)[name], value, atol=1e-5, err_msg=name)


def test_the_resize_is_pillows_bit_for_bit(engine: Engine, native) -> None:
    """Pillow 13 shrinks tall images by columns first; here too, under any Pillow."""
    random, side = np.random.default_rng(0), 64
    sizes = [(64, 64), (64, 200), (200, 64), (1, 1), (1, 500), (500, 1), (63, 65), (1080, 16), (641, 479), (136, 100), (137, 100)]
    for height, width in [*sizes, *random.integers(2, 400, (20, 2)).tolist()]:
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        if random.random() < 0.3:
            pixels = (pixels > 127).astype(np.uint8) * 255  # extremes round at the ends of the range
        lower = pixels
        if height > side and width != side and height + side > 2 * width:
            lower = np.asarray(Image.fromarray(pixels).resize((width, side), Image.Resampling.BILINEAR))
        expected = preprocess(lower, engine.bundle.image)
        np.testing.assert_array_equal(native.preprocess(pixels), expected, err_msg=f"{width}x{height}")
        if int(PIL.__version__.split(".")[0]) >= 13:
            np.testing.assert_array_equal(preprocess(pixels, engine.bundle.image), expected, err_msg=f"Pillow, {width}x{height}")


def test_rows_may_lie_apart(native) -> None:
    wide = np.random.default_rng(1).integers(0, 256, (50, 90, 3), np.uint8)
    part = np.ascontiguousarray(wide[:, :70])
    np.testing.assert_array_equal(native.preprocess(wide[:, :70], stride=270), native.preprocess(part))


@pytest.mark.parametrize("kind", ["generated", "photographs"])
def test_every_file_gives_what_python_finds(engine: Engine, native, request: pytest.FixtureRequest, kind: str) -> None:
    if kind == "generated":
        files = list(request.getfixturevalue("pictures").values())
    else:
        files = sorted((request.getfixturevalue("shared") / "photos").glob("*.jpg"))
    assert files
    for file in files:
        (expected,), found = engine.predict([file]), native.predict(file)
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-3)
        assert [name for name, _ in found["labels"]] == [name for name, _ in expected.labels]
        assert [label for _, label, _ in found["regions"]] == [region.label for region in expected.regions]
        for (box, _, _), region in zip(found["regions"], expected.regions, strict=True):
            np.testing.assert_allclose(box, region.box, rtol=1e-5)


def test_classify_prints_what_predict_writes(run, runtime, bundle: Path, pictures: dict[str, Path], tmp_path: Path) -> None:
    good = [str(pictures[name]) for name in ("rgb.jpg", "turned6.jpg", "rgba.png")]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(pictures["rgb.jpg"].read_bytes()[:900])
    files = [good[0], str(broken), *good[1:]]
    found = json.loads(run(runtime.examples / "classify", bundle, *files, ends=1))
    run(sys.executable, "-m", "edge.predict", bundle, *files, "--json", tmp_path / "python.json", ends=1)
    expected = json.loads((tmp_path / "python.json").read_text())
    assert [one["image"] for one in found] == files
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        if "error" in one:
            assert one["image"] == str(broken)
            assert re.fullmatch(rf"\[image\] .*{broken}.*\. .+\.", one["error"])
            continue
        assert [label["name"] for label in one["labels"]] == [label["name"] for label in other["labels"]]
        for region, wanted in zip(one["regions"], other["regions"], strict=True):
            assert (region["label"], region["looked"]) == (wanted["label"], wanted["looked"])
            np.testing.assert_allclose(region["box"], wanted["box"], rtol=1e-5)
            assert region["score"] == pytest.approx(wanted["score"], abs=1e-3)


def test_the_c_example_says_the_same(run, runtime, engine: Engine, bundle: Path, pictures: dict[str, Path]) -> None:
    printed = run(runtime.examples / "classify_c", bundle, pictures["rgb.png"])
    (expected,) = engine.predict([pictures["rgb.png"]])
    assert re.findall(r"^  label +(\S+)", printed, re.MULTILINE) == [name for name, _ in expected.labels]
    assert re.findall(r"^  region +(\S+)", printed, re.MULTILINE) == [region.label for region in expected.regions]


def test_refusals_come_back_as_words(api: ctypes.CDLL, open_native, native, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RuntimeError, match=rf"^\[load\] .*{folder}.*\. Build one: python -m edge\.build\.$"):
            open_native(folder)
    for count in (0, 4):
        with pytest.raises(RuntimeError, match=rf"\[infer\].* {count} images.* 1 to 3\."):
            native.infer(np.zeros((count, 3, 64, 64), np.float32))
    (tmp_path / "text.jpg").write_text("no image")
    for file in ("text.jpg", "absent.jpg"):
        with pytest.raises(RuntimeError, match=r"\[image\]"):
            native.predict(tmp_path / file)
    with pytest.raises(RuntimeError, match=r"\[image\]"):
        native.preprocess(np.zeros((4, 4, 3), np.uint8), stride=11)
    assert api.edge_engine_load(None, None) == 1
    api.edge_engine_free(None)
    api.edge_engine_prediction_free(None)


def test_a_changed_byte_is_found(open_native, copied: Path) -> None:
    data = bytearray((copied / "engine.bin").read_bytes())
    data[1000] ^= 1
    (copied / "engine.bin").write_bytes(data)
    with pytest.raises(RuntimeError, match=r"\[load\].*engine\.bin"):
        open_native(copied)


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_truncated_file_is_refused_by_both(engine: Engine, native, pictures: dict[str, Path], tmp_path: Path, kind: str) -> None:
    data = pictures[f"rgb.{kind}"].read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(RuntimeError, match=r"\[image\]"):
            native.predict(tmp_path / "cut")
        with pytest.raises(EdgeError):
            decode(tmp_path / "cut")


@pytest.fixture(scope="module", params=OUTPUTS)
def architecture(request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Its name and a bundle of it, with random weights at 64 pixels."""
    if request.param == "mcar":
        return "mcar", bundle
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("architectures") / request.param
    model = f"{request.param}-mobilenetv2"
    build(BuildOptions(model=model, weights="random", size=64, batch=3, backend="openvino", precision="fp32", output=folder))
    return request.param, folder


def check(bundle: Path, native, outputs: set[str]) -> None:
    with Engine.load(bundle) as engine:
        for count in (1, 3):
            expected, found = engine.infer(IMAGES[:count]), native.infer(IMAGES[:count])
            assert set(expected) - {"regions_looked"} == outputs
            for name, value in found.items():
                if name in expected:
                    np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)
                else:  # not written
                    assert not value.size or np.isnan(value).all() or (value == -1).all(), name


def test_the_runtime_gives_what_python_gives(architecture: tuple[str, Path], open_native) -> None:
    name, bundle = architecture
    native = open_native(bundle)
    assert native.regions == {"rma": 5, "mcar": 4}.get(name, 0)
    check(bundle, native, OUTPUTS[name])


def test_an_output_with_further_names_is_found(copied: Path, native, open_native, rewrite) -> None:
    """A reshape swapped with what followed it leaves an output with both their names."""
    model = (copied / "engine.xml").read_text()
    for name in ("look/global_scores", "look/regions", "look/region_classes", "closer/region_scores"):
        assert f'output_names="{name}"' in model
        model = model.replace(f'names="{name}"', f'names="{name},{name}_again,a_{name}"')  # OpenVINO may call any of them first
    rewrite(copied, {"engine.xml": model.encode()})
    found, expected = open_native(copied).infer(IMAGES), native.infer(IMAGES)
    for name in OUTPUTS["mcar"]:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_the_version_is_the_packages(repository: Path) -> None:
    assert f"project(mcar_edge VERSION {__version__} " in (repository / "edge" / "cpp" / "CMakeLists.txt").read_text()


def test_cpp_sources_are_formatted(run, repository: Path) -> None:
    tool = Path(sys.executable).with_name("clang-format")
    if not tool.is_file():
        pytest.skip("no clang-format beside this interpreter: pip install clang-format")
    paths = [path for folder in ("edge/cpp", "examples", "tests/cpp") for path in (repository / folder).rglob("*")]
    files = [path for path in paths if path.suffix in (".cpp", ".h", ".hpp", ".c")]
    assert files
    run(tool, "--dry-run", "--Werror", *files)


def test_the_tensorrt_part_compiles(run, repository: Path) -> None:
    folders = [Path(each) for each in os.environ.get("TENSORRT_INCLUDE_DIR", "").split(os.pathsep) if each]
    cuda = [path for path in (Path(np.__file__).parents[1] / "nvidia").glob("cu*/include") if (path / "cuda_runtime_api.h").is_file()]
    if not folders or not cuda or not shutil.which("g++"):
        pytest.skip("no TensorRT headers, CUDA headers or g++: set TENSORRT_INCLUDE_DIR to the folder of NvInfer.h")
    source = repository / "edge" / "cpp"
    words = ["g++", "-fsyntax-only", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-isystem{cuda[0]}", f"-I{source / 'include'}"]
    for headers in folders:
        for file in (source / "src" / "tensorrt.cpp", source / "tools" / "plan.cpp"):
            run(*words, f"-I{source / 'src'}", f"-isystem{headers}", file)
