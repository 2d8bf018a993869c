"""Mutated manifests, images and graphs through the Python package, and the corpora that both
languages start from.

python tests/cpp/fuzz.py corpus FOLDER          write FOLDER/manifest, FOLDER/image and FOLDER/onnx
python tests/cpp/fuzz.py manifest FOLDER N      N mutations each; so do image and onnx python
tests/cpp/fuzz.py image FOLDER N [SEED] python tests/cpp/fuzz.py write image FOLDER N   the same
cases to standard output, for the C++ targets

A case ends in a value or in an EdgeError; anything else is printed, kept beside the corpus as
crash-… and ends with exit 1. A case that takes longer than SECONDS ends the run with a trace.
Memory is bounded, so that what allocates without bound fails.
"""

from __future__ import annotations

import faulthandler
import io
import json
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from edge.bundle import Bundle
from edge.errors import EdgeError
from edge.image import decode, preprocess
from edge.spec import ImageSpec, ModelSpec

SECONDS = 30.0
MEMORY = 8 << 30
DIGEST = "ab" * 32


def manifest() -> dict:
    """A small valid one, of every kind of field."""
    return {
        "schema": 2,
        "model": {"name": "mcar-mobilenetv2", "labels": ["cat", "dog", "é"], "options": {"regions": 4}, "thresholds": [0.5, 0.25, 1e-3]},
        "image": {"size": 64, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "target": {"backend": "tensorrt", "precision": "int8", "batches": [1, 8], "float16": None, "reduced_range": None},
        "stages": {
            "sizes": [1, 2, 4],
            "rule": {"kind": "interval", "low": [0.4, 0.1, 0], "high": [0.4, 0.9, 1], "fitted_on": {"backend": "openvino"}},
            "effort": 0.3,
            "thresholds": [0.5, 0.25, 1e-3],
        },
        "engine": {
            "payload": "engine.plan",
            "plugin": {"file": "engine.plugin.so", "sha256": DIGEST},
            "plan_bytes": 10,
            "profiles": [[1, 1, 1], [8, 8, 8]],
            "machine": {"version": "10.3.0", "compute_capability": "8.7"},
        },
        "tools": {"tensorrt": "10.3.0"},
        "machine": {"architecture": "aarch64"},
        "files": {name: {"sha256": DIGEST, "bytes": 10} for name in ("engine.plan", "engine.plugin.so", "labels.txt")},
    }


def manifests() -> dict[str, bytes]:
    whole = manifest()
    made = {"whole": json.dumps(whole, indent=1).encode(), "nested": b"[" * 5000, "objects": b'{"a":' * 5000, "empty": b"", "text": b'"x"'}
    changes: dict[str, Callable[[dict], object]] = {  # further ones: TRICKS of test_trust.py
        "payload": lambda one: one["engine"].update(payload="../other"),
        "huge_batch": lambda one: one["target"].update(batches=[1, 1 << 62]),
        "negative": lambda one: one["files"]["labels.txt"].update(bytes=-1),
        "long_number": lambda one: one["image"].update(size=int("9" * 400)),
        "many": lambda one: one["model"].update(labels=[str(i) for i in range(3000)]),
        "surrogate": lambda one: one["files"].update({"\ud800": {"sha256": DIGEST, "bytes": 1}}),
        "unknown": lambda one: one["image"].update({"in\nput": "uint8"}),
        "unknown_stages": lambda one: one["stages"].update({"ru\nle": "rank"}),
        "unranked": lambda one: one["stages"].update(rule="ra\nnk"),
        "falling_bounds": lambda one: one["stages"]["rule"].update(high=[0.9, 0.4, 1]),
        "long_effort": lambda one: one["stages"].update(effort=int("9" * 400)),
        "falling_sizes": lambda one: one["stages"].update(sizes=[4, 2]),
        "staged_plans": lambda one: one["engine"].update(
            stages={"look": {"payload": one["engine"].pop("payload")}, "closer": {"payload": "labels.txt", "profiles": [[1, 1, 9999]]}}
        ),
        "one_graph": lambda one: one.update(stages=None),
        "first_schema": lambda one: (one.update(schema=1), one.pop("stages"), one["target"].pop("reduced_range")),
    }
    for name, change in changes.items():
        one = manifest()
        change(one)
        made[name] = json.dumps(one).encode()
    made["nan"] = made["whole"].replace(b"0.485", b"NaN")
    return made


def images() -> dict[str, bytes]:
    """Of every kind that Python or the C++ runtime decodes."""
    chance = np.random.default_rng(0)
    # Of a shape, turned or not, that every release of Pillow resizes in the same order.
    rgb = Image.fromarray(chance.integers(0, 256, (9, 13, 3), np.uint8)).resize((128, 97), Image.Resampling.BICUBIC)
    grey, palette, rgba, la = rgb.convert("L"), rgb.convert("P"), rgb.copy(), rgb.convert("L")
    alpha = Image.fromarray(chance.integers(0, 256, (97, 128), np.uint8))
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    exif = [Image.Exif() for _ in range(9)]
    for orientation, each in enumerate(exif):
        each[0x0112] = orientation
    kinds: dict[str, tuple[Image.Image, dict]] = {
        "rgb.jpg": (rgb, {"quality": 90}),
        "444.jpg": (rgb, {"quality": 95, "subsampling": 0}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "grey.jpg": (grey, {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        **{f"turned{orientation}.jpg": (rgb, {"exif": exif[orientation].tobytes()}) for orientation in range(2, 9)},
        "rgb.png": (rgb, {}),
        "grey.png": (grey, {}),
        "bits.png": (rgb.convert("1"), {}),
        "palette.png": (palette, {}),
        "four_bits.png": (rgb.quantize(9), {"bits": 4}),
        "deep.png": (Image.fromarray(chance.integers(0, 65536, (40, 50), np.uint16)), {}),
        "clear.png": (grey, {"transparency": 90}),
        "clear_palette.png": (palette, {"transparency": bytes(range(256))}),
        "rgba.png": (rgba, {}),
        "la.png": (la, {}),
        "turned.png": (rgb, {"exif": exif[6].tobytes()}),
        "a.webp": (rgb, {}),
        "a.gif": (palette, {}),
        "a.bmp": (rgb, {}),
        "a.tiff": (rgb, {"compression": "tiff_lzw"}),
        "a.ppm": (rgb, {}),
    }
    made = {}
    for name, (image, options) in kinds.items():
        data = io.BytesIO()
        image.save(data, Image.registered_extensions()[Path(name).suffix], **options)
        made[name] = data.getvalue()
    return made


def graphs() -> dict[str, bytes]:
    """A graph with a convolution and both nodes of ours, small enough that most mutations hit
    structure."""
    from onnx import TensorProto, helper

    attributes = {"domain": "edge", "plugin_version": "1", "plugin_namespace": "edge"}
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["cams"], "global/cams", kernel_shape=[1, 1], strides=[32, 32]),
        helper.make_node("Sigmoid", ["cams"], ["maps"], "global/maps"),
        helper.make_node("RegionBoxes", ["maps"], ["regions"], "boxes/find", size=64, threshold=0.5, **attributes),
        helper.make_node("RoiResize", ["image", "regions"], ["crops"], "crop/resize", size=64, **attributes),
        helper.make_node("GlobalMaxPool", ["crops"], ["scores"], "local/pool"),
    ]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "small",
        [value("image", TensorProto.FLOAT, ["batch", 3, 64, 64])],
        [value("scores", TensorProto.FLOAT, None), value("regions", TensorProto.FLOAT, ["batch", 2, 4])],
        [helper.make_tensor("weight", TensorProto.FLOAT, [2, 3, 1, 1], [0.5] * 6)],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("edge", 1)]
    return {"small": helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()}


def run_manifest(data: bytes, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(data)
    Bundle.read(folder).verify()


def run_image(data: bytes, folder: Path) -> None:
    preprocess(decode(data), ImageSpec(64))


def run_onnx(data: bytes, folder: Path) -> None:
    from google.protobuf.message import DecodeError

    from edge import lower
    from edge.graph import Graph

    try:
        model = Graph(data, ModelSpec("small", ("a", "b")), ImageSpec(64)).parse()
    except DecodeError:  # the library's own word for bytes that are no graph
        return
    try:
        lower.lower(model, backend="openvino", precision="fp32")
    except (MemoryError, RecursionError):
        raise
    except Exception:  # a graph that is none of ours: an error, if not one of our own form
        return


TARGETS = {"manifest": (manifests, run_manifest), "image": (images, run_image), "onnx": (graphs, run_onnx)}


def mutated(corpus: list[bytes], chance: random.Random) -> bytes:
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.randint(1, 6)):
        if not data:
            break
        at, other = chance.randrange(len(data)), chance.choice(corpus) or b"x"
        start = chance.randrange(len(other))
        kind = chance.randrange(6)
        if kind == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at] = chance.choice((0, 255, chance.randrange(256)))
        elif kind == 2:
            del data[at : at + chance.randint(1, 16)]
        elif kind == 3:
            data[at:at] = other[start : start + chance.randint(1, 64)]
        elif kind == 4:
            data[at:at] = bytes([data[at]]) * chance.randint(1, 2000)
        else:
            del data[at:]
    return bytes(data)


def cases(target: str, folder: Path, count: int, seed: int) -> Iterator[bytes]:
    """The corpus, then so many mutations of it."""
    corpus = [path.read_bytes() for path in sorted((folder / target).iterdir()) if not path.name.startswith("crash-")]
    yield from corpus
    chance = random.Random(seed)
    for _ in range(count):
        yield mutated(corpus, chance)


def fuzz(target: str, folder: Path, count: int, seed: int) -> dict[str, float]:
    """Counts and the slowest case; raises what a case should not have raised."""
    case = TARGETS[target][1]
    place = folder / "case"
    place.mkdir(exist_ok=True)
    slowest, refused, index = 0.0, 0, -1
    for index, data in enumerate(cases(target, folder, count, seed)):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        start = time.perf_counter()
        try:
            case(data, place)
        except EdgeError as error:
            refused += 1
            if "\n" in str(error):
                raise AssertionError(f"an error of several lines: {error}") from error
        except BaseException:
            (folder / target / f"crash-{seed}-{index}").write_bytes(data)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        slowest = max(slowest, time.perf_counter() - start)
    return {"cases": index + 1, "refused": refused, "slowest_s": round(slowest, 4)}


def main(command: str, *words: str) -> None:
    if command == "corpus":
        for target, (make, _) in TARGETS.items():
            (Path(words[0]) / target).mkdir(parents=True, exist_ok=True)
            for name, data in make().items():
                (Path(words[0]) / target / name).write_bytes(data)
        return
    target, folder, count, *seed = words if command == "write" else (command, *words)
    if command == "write":
        for data in cases(target, Path(folder), int(count), int(*seed)):
            sys.stdout.buffer.write(len(data).to_bytes(4, "little") + data)
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")  # Pillow's, of large or odd files
    print(json.dumps(fuzz(target, Path(folder), int(count), int(*seed))))


if __name__ == "__main__":
    main(*sys.argv[1:])
