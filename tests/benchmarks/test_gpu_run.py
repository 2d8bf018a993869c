"""The run for a machine with a GPU, on a machine without: nothing hangs, what was found stays, the
pack comes apart and together."""

from __future__ import annotations

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import participants
from benchmarks.gpu import engines, images, kernels, networks, pack, place, plans, report, run, smallest
from benchmarks.gpu.place import Answer, Place
from benchmarks.participants import Participant
from edge.bundle import Bundle
from edge.data.scenes import Scenes
from edge.image import preprocess
from edge.spec import ImageSpec

# Starts a grandchild that outlives it and holds its output open.
LINGERS = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('said', flush=True)"


@pytest.fixture
def here(tmp_path) -> Place:
    (tmp_path / "out").mkdir()
    return Place(None, tmp_path / "work", tmp_path / "out", rehearse=True)


# ---- stages --------------------------------------------------------------------------------------


def test_what_a_program_leaves_running_holds_nothing_up() -> None:
    start = time.monotonic()
    answer = place.call([sys.executable, "-c", LINGERS], 30, {})
    assert (answer.output, answer.code) == ("said\n", 0)
    answer = place.call([sys.executable, "-c", f"{LINGERS}; time.sleep(60)"], 3, {})
    assert answer.code == -1
    assert answer.output.startswith("said")
    assert answer.tail[-1] == "not done within 3 s"
    assert time.monotonic() - start < 40


def test_a_program_that_is_not_there_is_an_answer() -> None:
    answer = place.call(["/no/such/program"], 5, {})
    assert answer.code == -1
    assert "No such file" in answer.output


def test_what_a_stage_found_before_it_failed_is_kept(here) -> None:
    def fails(where: Place, found: dict, save) -> None:
        found["half"] = 1
        raise ValueError("no more")

    assert run.run_stage(run.Stage("a stage", 1, fails), here) == 1
    kept = json.loads((here.work / "found" / "a stage.json").read_text())
    assert kept == {"half": 1, "failed": "ValueError: no more"}


def test_a_stage_is_ended_at_its_limit(here) -> None:
    stage = next(each for each in run.STAGES if each.name == "kernels")
    found = run.run_apart(stage, here, 0.3, ["--work", str(here.work), "--out", str(here.out), "--rehearse"])
    assert found["failed"] == "cut off"
    assert found["log"][-1] == "not done within 0 s"


def test_files_say_what_each_stage_lacked(here, monkeypatch, capsys) -> None:
    words = ["run", "--rehearse", "--work", str(here.work), "--out", str(here.out), "--only", "mobilenetv2-int8"]
    monkeypatch.setattr(sys, "argv", words)
    assert run.main() == 0
    document = json.loads((here.out / "gpu-rehearsal.json").read_text())
    assert document["stages"]["unpack"]["missing"] == "no pack: pass --from DIR"
    assert document["stages"]["mobilenetv2-int8"]["missing"] == "no bundle mobilenetv2-256-int8 in the pack"
    assert "| mobilenetv2-int8 | " in (here.out / "gpu-rehearsal.md").read_text()


def test_the_stages_fit_their_budget_by_value() -> None:
    limits = [stage.limit_s for stage in run.STAGES]
    most_valuable = [stage.name for stage in run.STAGES].index("torch")
    assert sum(limits[: most_valuable + 1]) <= run.BUDGET_S + 60  # unpacking and building never take all of their limits
    assert run.BUDGET_S < 600


# ---- the pack ------------------------------------------------------------------------------------


def test_what_is_packed_in_parts_comes_out_whole(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pack, "PART", 1000)
    made, folder = tmp_path / "made" / "bundles", tmp_path / "pack"
    made.mkdir(parents=True)
    folder.mkdir()
    content = np.random.default_rng(0).bytes(5000)
    (made / "one").write_bytes(content)
    pack.compress([(tmp_path / "made", "bundles")], folder / "bundles.tar.xz", 1)
    parts = pack.split(folder, "bundles")
    assert len(parts) > 5
    assert max(part.stat().st_size for part in parts) == 1000
    there = Place(folder, tmp_path / "work", tmp_path)
    assert there.unpack(20)["tensorrt"] == "absent"
    assert (there.work / "bundles" / "one").read_bytes() == content
    parts[1].unlink()
    with pytest.raises(RuntimeError, match="parts of bundles do not join"):
        Place(folder, tmp_path / "again", tmp_path).unpack(20)


def test_images_at_256_are_the_scenes_and_larger_ones_hold_four(tmp_path) -> None:
    given = images.prepare(tmp_path, 256, 2)
    dataset = Scenes("test")
    assert np.array_equal(given.array[0], preprocess(dataset[0].image, ImageSpec(256)))
    assert np.array_equal(given.labels[0], dataset.labels[0])
    large = images.prepare(tmp_path, 448, 1).array[0]
    assert np.array_equal(large[:, :256, :256], given.array[0])
    assert np.array_equal(large[:, 256:, :256], preprocess(dataset[2].image, ImageSpec(256))[:, :192])


# ---- plans ---------------------------------------------------------------------------------------


def test_names_that_hold_nodes_in_float32_are_dropped(small_bundle, tmp_path) -> None:
    asked = shutil.copytree(small_bundle("onnxruntime"), tmp_path / "asked")
    file = next(asked.glob("lowered*.onnx"))
    graph = onnx.load(file)
    before = [node.name for node in graph.graph.node]
    for node in graph.graph.node:
        node.name = plans.FLOAT32 + node.name
    onnx.save(graph, file)
    bundle = Bundle.read(plans.unnamed(asked, tmp_path / "unnamed"))
    bundle.verify()
    assert [node.name for node in onnx.load(bundle.path / file.name).graph.node] == before


def test_boxes_are_compared_where_the_classes_are_the_same() -> None:
    reference = {
        "scores": np.array([[0.9, 0.2], [0.1, 0.8]], np.float32),
        "regions": np.array([[[0, 0, 8, 8], [0, 0, 4, 4]], [[0, 0, 8, 8], [2, 2, 6, 6]]], np.float32),
        "region_classes": np.array([[0, 1], [1, 0]]),
    }
    mine = {name: value.copy() for name, value in reference.items()}
    mine["scores"][0, 1] = 0.3
    mine["regions"][0, 0, 2] = 9  # one coordinate by one pixel
    mine["region_classes"][1] = [0, 0]  # another class, whose box does not count
    found = plans.against(mine, reference, np.array([[1, -1], [-1, 1]]))
    assert found["score_error"] == pytest.approx(0.1)
    assert found["classes_equal_in_order"] == 0.75
    assert (found["coordinates_equal"], found["coordinates_within_one"]) == (11 / 12, 1.0)
    assert (found["map_reference"], found["map"], found["map_drop"]) == (100, 100, 0)


def test_the_smallest_refused_graph_is_found(here, monkeypatch, tmp_path) -> None:
    """Of twelve nodes the sixth and the seventh together are refused."""
    nodes = [helper.make_node("Relu", [f"v{index}"], [f"v{index + 1}"], name=f"node{index}") for index in range(12)]
    value = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT, shape=[1, 4])
    model = helper.make_model(helper.make_graph(nodes, "g", [value("v0")], [value("v12")]), opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "lowered.onnx")

    def try_build(where: Place, graph: Path, int8: bool) -> Answer:
        names = {node.name for node in onnx.load(graph).graph.node}
        onnx.checker.check_model(onnx.load(graph), full_check=True)
        if "node0" not in names and "node3" not in names and "node5" not in names:
            return Answer("Error: an input that has no shape", 9, 0.0)  # refused for a reason of the cut's own
        return Answer("Assertion fused[3] failed" if {"node5", "node6"} <= names else "", 9 * ({"node5", "node6"} <= names), 0.0)

    monkeypatch.setattr(smallest, "try_build", try_build)
    told: dict = {}
    smallest.search(here, tmp_path / "lowered.onnx", True, told, lambda: None)
    assert [line.split(":")[0] for line in told["smallest"]["nodes"]] == ["Relu node5", "Relu node6"]
    assert len(onnx.load(next(here.out.glob("refused-*.onnx"))).graph.node) == 2


def test_a_plan_is_judged_against_the_quickest_of_torch() -> None:
    medians = {"torch eager": [8.0, 8.0, 8.0], "torch compile": [4.0, 4.4, 4.2], "quick": [1.9, 2.0, 2.1], "slow": [3.0, 3.0, 3.0]}
    rows = networks.rows(medians)
    assert (rows["quick"]["than"], rows["quick"]["times_faster"], rows["quick"]["goal_met"]) == ("torch compile", 2.105, True)
    assert rows["slow"]["goal_met"] is False
    assert "goal_met" not in rows["torch eager"]


# ---- kernels, TensorRT-RTX, the report -----------------------------------------------------------


def test_a_ladder_is_read_as_it_is_printed() -> None:
    printed = "copy bandwidth 2958 GB/s\nv5 | block_size  128 | time   26.20 us |   45.28 MB |   58.4 %\n"
    row = {"version": 5, "block_size": 128, "microseconds": 26.2, "megabytes": 45.28, "percent_of_copy": 58.4}
    assert kernels.ladder(printed) == {"copy_gb_per_s": 2958, "rows": [row]}


def test_engines_are_compared_with_the_reference_and_timed_in_turns(small_bundle, tmp_path) -> None:
    """The steps after building, with one engine and a participant that cannot run."""
    path = small_bundle("onnxruntime")
    who = [
        Participant("mine", "onnxruntime", "fp32", partial(engines.bundle, path, graphs=True)),
        Participant("absent", "onnxruntime", "fp32", partial(participants.session, tmp_path / "none.onnx")),
    ]
    found: dict = {}
    engines.measure(who, {"mine": path}, 64, 1, found, lambda: None, rounds=2, turn_s=0.01)
    row = found["batches"]["1"]["mine"]
    assert row["score_error"] < 1e-5
    assert row["class_agreement"] == 1.0
    assert row["p50_ms"] > 0
    assert list(found["answers"]) == ["absent, batch 1"]


def test_the_table_says_which_goals_are_met() -> None:
    def table(percent: float, drop: float) -> str:
        rows = [{"version": 5, "block_size": 128, "microseconds": 12.0, "percent_of_copy": percent}]
        compared = dict.fromkeys(("score_error", "class_agreement", "mean_iou", "coordinates_equal", "coordinates_within_one"), 1.0)
        plan = {
            "attempts": [{"name": "as lowered", "code": 0, "seconds": 40.0, "log": []}],
            "quality": {"images": 1000, **compared, "map": 90.0, "map_drop": drop},
        }
        stages = {"kernels": {"ladders": {"roi_resize": {"copy_gb_per_s": 4300, "rows": rows}}}, "mobilenetv2-int8": plan}
        return report.table({"gpu": "a GPU", "stages": stages})

    assert "- met: 80 % of the copy bandwidth or more" in table(83.5, 0.2)
    assert "- met: mobilenetv2-int8 loses at most 0.5 points of mAP" in table(83.5, 0.2)
    assert "- NOT met: 80 % of the copy bandwidth or more" in table(70.0, 0.7)
    assert "- NOT met: mobilenetv2-int8 loses at most 0.5 points of mAP" in table(70.0, 0.7)
