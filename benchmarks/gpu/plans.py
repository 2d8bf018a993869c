"""One plan: built by ``mcar_edge_build``, its outputs against the fp32 graph's in ONNX Runtime, its
latency by ``mcar_edge_bench``.

One batch per plan: every profile more would be built for as long again. What is refused is built
once more without the names that hold nodes in float32; where that fails too, ``smallest.py`` looks
for what TensorRT refuses.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from benchmarks.gpu import images
from benchmarks.gpu.place import Found, Place, Save
from edge.graph import OUTPUTS, Outputs
from edge.manifest import read_manifest, write_manifest
from edge.measure.accuracy import evaluate, map_drop_interval
from edge.measure.regions import drift, region_iou

BUILD_S = 170.0
ROUNDS = 3
RESAMPLES = 200
FLOAT32 = "float32/"  # how the names of nodes begin that are held in float32


def run(place: Place, found: Found, save: Save, *, stage: str, bundle: str, batch: int) -> None:
    """Build, time, compare; each kept before the next begins."""
    given, attempts = place.bundle(bundle), found.setdefault("attempts", [])
    found["bundle"] = bundle
    ways = () if (place.plan(stage) / "manifest.json").is_file() else ("as lowered", "without float32 names")  # built before: kept
    for name in ways:
        source = given if name == "as lowered" else unnamed(given, place.work / "unnamed" / bundle)
        attempts.append({"name": name, **build(place, source, place.plan(stage), batch)})
        save()
        if attempts[-1]["code"] in (0, -1):  # built, or no time for another
            break
    if attempts and attempts[-1]["code"] != 0:
        raise RuntimeError("no plan: " + " / ".join(attempt["log"][-1] if attempt["log"] else "?" for attempt in attempts))
    found["plan"] = facts(place.built_plan(stage))
    found["latency"] = bench(place, stage, batch, "--iterations", "300" if not place.rehearse else "3", "--warmup", "50")
    save()
    found["quality"] = quality(place, stage, bundle.rpartition("-")[0], batch)
    save()


def run_adaptive(place: Place, found: Found, save: Save, *, stage: str, bundle: str, whole: str) -> None:
    """A plan that looks only where it pays, beside ``whole``, the plan that looks at every region:
    means over the test images, interleaved."""
    run(place, found, save, stage=stage, bundle=bundle, batch=1)
    file = given_images(place, bundle.rpartition("-")[0]).file
    calls = "2" if place.rehearse else str(images.COUNTS[256])
    means: dict[str, list[float]] = {stage: [], whole: []}
    for _ in range(ROUNDS):
        for name, kept in means.items():
            kept.append(bench(place, name, 1, "--images", file, "--iterations", calls, "--warmup", calls)["latency_ms"]["mean"])
        found["mean_ms"] = means
        save()


# ---- building ------------------------------------------------------------------------------------


def unnamed(bundle: Path, target: Path) -> Path:
    """The same bundle, no node of which is held in float32 by its name."""
    import onnx

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(bundle, target)
    for file in target.glob("lowered*.onnx"):
        graph = onnx.load(file)
        for node in graph.graph.node:
            node.name = node.name.removeprefix(FLOAT32)
        onnx.save(graph, file)
    manifest = read_manifest(target)
    write_manifest(target, {key: value for key, value in manifest.items() if key not in ("schema", "files")})
    return target


def build(place: Place, bundle: Path, out: Path, batch: int) -> Found:
    """``mcar_edge_build``: how it ended, after how long, and the end of what it said."""
    out.parent.mkdir(parents=True, exist_ok=True)
    words = ["--batch", str(batch), "--only", "--level", str(place.level), "--cache", str(place.timings), "--force"]
    answer = place.call([*place.tool("mcar_edge_build"), bundle, out, *words], BUILD_S)
    return {"code": answer.code, "seconds": answer.seconds, "log": answer.tail}


def facts(plan: Path) -> Found:
    """Size, seconds and layers as the builder wrote them into the manifest."""
    manifest = read_manifest(plan)
    size = sum(entry["bytes"] for name, entry in manifest["files"].items() if name.startswith("engine.") and "plugin" not in name)
    return {"mb": round(size / 1e6, 1), "engine": manifest["engine"]}


# ---- outputs -------------------------------------------------------------------------------------


def bench(place: Place, stage: str, batch: int, *words: str | Path) -> Found:
    """``mcar_edge_bench``'s JSON."""
    file = place.work / "bench.json"
    file.unlink(missing_ok=True)
    answer = place.call([*place.tool("mcar_edge_bench"), place.built_plan(stage), "--batch", str(batch), "--json", file, *words], 120)
    if answer.code:
        raise RuntimeError(f"mcar_edge_bench ended with {answer.code}: {' / '.join(answer.tail[-3:])}")
    told: Found = json.loads(file.read_text())
    return told


def outputs(place: Place, stage: str, batch: int, given: images.Images) -> Outputs:
    """What a plan gives for all images, by the C++ runtime."""
    folder = place.work / "outputs" / stage
    shutil.rmtree(folder, ignore_errors=True)
    bench(place, stage, batch, "--iterations", "1", "--warmup", "0", "--images", given.file, "--outputs", folder)
    return read_outputs(folder, len(given.labels))


def read_outputs(folder: Path, count: int) -> Outputs:
    """Raw files by name → arrays of ``count`` images."""
    found = {}
    for name in OUTPUTS:
        if (file := folder / f"{name}.bin").is_file():
            values = np.fromfile(file, np.int64 if name == "region_classes" else np.float32).reshape(count, -1)
            found[name] = values.reshape(count, -1, 4) if name == "regions" else values
    return found


def given_images(place: Place, bundle: str) -> images.Images:
    size = int(bundle.rpartition("-")[2])
    return images.prepare(place.work, size, images.REHEARSED if place.rehearse else images.COUNTS[size])


def quality(place: Place, stage: str, bundle: str, batch: int) -> Found:
    """A plan against the fp32 graph; ``bundle`` as ``mobilenetv2-256``, whose weights alone know
    what a scene shows."""
    given = given_images(place, bundle)
    reference, source = images.packed_reference(place, f"mcar-{bundle}", given)
    return {"reference": source, **against(outputs(place, stage, batch, given), reference, given.labels if given.size == 256 else None)}


def against(mine: Outputs, reference: Outputs, labels: np.ndarray | None) -> Found:
    """Scores, classes and boxes of an engine against the reference's; with labels also mAP in
    points.

    Box coordinates are compared where the classes are the same, rank by rank.
    """
    same = mine["region_classes"] == reference["region_classes"]
    distance = np.abs(mine["regions"] - reference["regions"])[same]
    iou, moved = region_iou(mine, reference), drift(mine, reference)
    found: Found = {
        "images": len(same),
        "score_error": float(np.abs(mine["scores"] - reference["scores"]).max()),
        "score_error_mean": float(np.abs(mine["scores"] - reference["scores"]).mean()),
        "classes_equal_in_order": float(same.mean()),
        "class_agreement": moved and moved.class_agreement,
        "coordinates_equal": float((distance == 0).mean()) if distance.size else None,
        "coordinates_within_one": float((distance <= 1).mean()) if distance.size else None,
        "mean_iou": float(np.nanmean(iou)) if np.isfinite(iou).any() else None,
        "images_changed": moved and moved.images_changed,
    }
    if labels is not None:
        before, after = evaluate(reference["scores"], labels).map, evaluate(mine["scores"], labels).map
        interval = map_drop_interval(reference["scores"], mine["scores"], labels, resamples=RESAMPLES)
        found |= {"map_reference": before, "map": after, "map_drop": before - after, "map_drop_interval": interval}
    return found


# ---- the Python runtime --------------------------------------------------------------------------


def run_python(place: Place, found: Found, save: Save) -> None:
    """The same plans through ``edge.Engine`` and TensorRT's Python module: outputs equal to the C++
    runtime's?"""
    for stage, bundle in (
        ("mobilenetv2-int8", "mobilenetv2-256"),
        ("mobilenetv2-fp16", "mobilenetv2-256"),
        ("resnet50-int8", "resnet50-448"),
    ):
        if not (place.plan(stage) / "manifest.json").is_file():
            found[stage] = {"missing": "no plan"}
            continue
        size = int(bundle.rpartition("-")[2])
        given = images.prepare(place.work, size, images.REHEARSED)
        by_cpp, folder = outputs(place, stage, 1, given), place.work / "outputs" / f"{stage}-python"
        module = {"PYTHONPATH": f"{place.work}:."} if not place.rehearse else {}
        answer = place.call([*place.python, "-m", "benchmarks.gpu.infer", place.plan(stage), given.file, folder], 60, module)
        if answer.code:
            found[stage] = {"failed": answer.tail}
            continue
        by_python = read_outputs(folder, len(given.labels))
        differences = {name: float(np.abs(by_python[name].astype(np.float64) - by_cpp[name]).max()) for name in by_cpp}
        found[stage] = {"images": len(given.labels), "said": answer.tail[-1:], "largest_difference": differences}
        save()
    if not any("largest_difference" in each for each in found.values()):
        raise RuntimeError("no plan ran in Python")
