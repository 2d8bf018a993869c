"""The peers table: workers, floors, rows, and the drawing made from them."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmarks import participants, peers, plot  # noqa: E402
from benchmarks.floor import backbones  # noqa: E402
from benchmarks.participants import Participant  # noqa: E402
from benchmarks.table import Floor, Peers, Table, rows, terminal  # noqa: E402
from benchmarks.workers import Failed, Worker, mean_over  # noqa: E402
from edge.bundle import Bundle  # noqa: E402
from edge.measure.latency import Rounds  # noqa: E402
from edge.plain import from_plain, to_plain  # noqa: E402


@pytest.fixture
def toy(tmp_path):
    """An ONNX file whose scores are the means of the channels."""
    node = onnx.helper.make_node("ReduceMean", ["image", "axes"], ["scores"], keepdims=0)
    shape = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3, 4, 4])
    scores = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["batch", 3])
    axes = onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
    graph = onnx.helper.make_graph([node], "toy", [shape], [scores], [axes])
    path = tmp_path / "toy.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=10), str(path))
    return path


def test_a_worker_takes_turns_and_answers_on_other_images(toy):
    images = np.ones((2, 3, 4, 4), np.float32)
    with Worker(Participant("toy", "onnxruntime", "fp32", partial(participants.session, toy)), images) as worker:
        seconds = worker.turn(5)
        assert len(seconds) == 5
        assert all(value > 0 for value in seconds)
        assert worker.cpu_s > 0
        np.testing.assert_allclose(worker.infer(3 * images[:1])["scores"], [[3, 3, 3]])


def test_the_time_of_an_adaptive_row_is_the_mean_over_all_its_images():
    seen, took = [], {0: 0.001, 1: 0.02, 2: 0.001}

    def run(batch):
        seen.append(int(batch[0, 0]))
        time.sleep(took[seen[-1]])

    turn = mean_over(run, np.arange(3).reshape(3, 1, 1))
    seconds = turn(4)
    assert seen == [0, 1, 2]  # whole passes only
    assert len(seconds) == 3
    assert all(0.022 / 3 <= value < 0.02 for value in seconds)
    assert len(turn(7)) == 6


def test_a_worker_that_cannot_open_says_why(tmp_path):
    absent = Participant("absent", "onnxruntime", "fp32", partial(participants.session, tmp_path / "none.onnx"))
    with pytest.raises(Failed, match=r"none\.onnx"):
        Worker(absent, np.zeros((1, 3, 4, 4), np.float32))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_floor_is_the_backbone_of_each_stream_and_nothing_else(small_bundle, backend, tmp_path):
    bundle = Bundle.read(small_bundle(backend))
    paths = backbones(bundle.lowered(), 64, 2, 4, tmp_path)
    convolutions = {}
    for stream, path in paths.items():
        part = onnx.load(str(path))
        onnx.checker.check_model(part)
        assert all(node.name.startswith((f"{stream}/", "image", "crop")) for node in part.graph.node)
        assert len(part.graph.output) == 1
        assert part.graph.input[0].type.tensor_type.shape.dim[0].dim_value == {"global": 2, "local": 8}[stream]
        convolutions[stream] = sum(node.op_type == "Conv" for node in part.graph.node)
    assert convolutions["global"] == convolutions["local"] == 52
    target = replace(bundle.target, batches=(2, 8))
    opened = partial(participants.openvino, target=target) if backend == "openvino" else participants.session
    run = participants.floor(partial(opened, paths["global"]), partial(opened, paths["local"]), 4)
    assert run(np.zeros((2, 3, 64, 64), np.float32)) == {}


def test_our_int8_rows_calibrate_on_the_images_of_the_others(tmp_path, monkeypatch):
    """Without --dataset the build would take the table that comes with shipped weights, of another
    number of images."""
    asked = []

    class Refusing:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def call(self, building):
            asked.extend(building.args)
            raise Failed("[build] No `seed` will do. Leave it.")

    monkeypatch.setattr(peers, "Apart", Refusing)
    monkeypatch.setattr(peers.backends, "probe", lambda name: SimpleNamespace(reason="", fix=""))
    with pytest.raises(SystemExit, match=r"no bundle could be built: .*No --seed will do"):
        peers._build(peers.arguments().parse_args(["--calib-images", "16"]), tmp_path, Table())
    for options in asked:
        assert (options.dataset, options.calib_images) == (("scenes", 16) if options.precision == "int8" else (None, None))
    assert len(asked) == len(peers.backends.BACKENDS) * len(peers.PRECISIONS)


def rounds(**milliseconds):
    return Rounds(
        {name.replace("_", "-"): tuple(np.full(4, value / 1e3 * (1 + 0.1 * n)) for n in range(3)) for name, value in milliseconds.items()}
    )


@pytest.fixture
def table():
    made = Table()
    for name, backend, precision in (
        ("eager-fp32", "torch", "fp32"),
        ("eager-bf16", "torch", "bf16"),
        ("edge-int8-openvino", "openvino", "int8"),
        ("edge-int8-onnxruntime", "onnxruntime", "int8"),
        ("floor-int8-openvino", "openvino", "int8"),
        ("floor-int8-onnxruntime", "onnxruntime", "int8"),
    ):
        made.add(name, backend, precision, partial(participants.session, Path()))
    made.fail("edge-fp16-tensorrt", "tensorrt", "fp16", "no GPU")
    return made


def found(table):
    measured = rounds(
        eager_fp32=100, eager_bf16=40, edge_int8_openvino=10.5, edge_int8_onnxruntime=22, floor_int8_openvino=10, floor_int8_onnxruntime=20
    )
    return {row.name: row for row in rows(table, measured, {"edge-int8-openvino": {"map": 79.0, "map_drop": 1.0}})}


def test_rows_hold_the_pinned_keys_and_paired_ratios(table):
    made = found(table)
    keys = {"name", "backend", "precision", "p50_ms", "p99_ms", "ratio_to_eager", "ratio_to_floor", "map", "map_drop"}
    assert all(set(to_plain(row)) >= keys for row in made.values())
    engine = made["edge-int8-openvino"]
    assert engine.ratio_to_eager == pytest.approx(0.105)
    assert engine.ratio_to_floor == pytest.approx(1.05)
    assert (engine.map, engine.map_drop) == (79, 1)
    assert made["edge-int8-onnxruntime"].ratio_to_floor == pytest.approx(2.2)
    assert made["edge-int8-onnxruntime"].ratio_to_own_floor == pytest.approx(1.1)


def test_the_floor_is_the_fastest_of_its_precision_and_names_its_runtime(table):
    floors = [row for name, row in found(table).items() if name.startswith("floor-")]
    assert [(row.name, row.backend, row.ratio_to_floor) for row in floors] == [("floor-int8", "openvino", 1)]


def test_a_row_that_could_not_run_says_why(table):
    row = found(table)["edge-fp16-tensorrt"]
    assert row.reason == "no GPU"
    assert "note" not in to_plain(row)
    assert (row.backend, row.precision, row.p50_ms) == ("tensorrt", "fp16", None)


def test_a_row_that_ran_otherwise_than_asked_says_so(table):
    table.notes["edge-int8-openvino"] = "boxes left in fp32"
    assert {name: row.note for name, row in found(table).items() if row.note} == {"edge-int8-openvino": "boxes left in fp32"}


def recorded(table, **changes):
    machine = {"cpu": "Fast CPU 9", "cores": 2, "cores_online": 2, "instructions": [], "memory_mb": 8192}
    head = {"model": "mcar-resnet50", "size": 448, "batch": 1, "rounds": 3, "machine": machine, "valid": True, **changes}
    floors = [to_plain(Floor("floor-int8-openvino", 10.0, 1.01))]
    return from_plain(Peers, {**head, "rows": [to_plain(row) for row in found(table).values()], "floors": floors})


def test_terminal_table_fits_and_shows_speed_and_reasons(table):
    text = terminal(recorded(table))
    assert max(map(len, text.splitlines())) <= 120
    for part in ("9.5×", "1.050", "-1.00", "edge-fp16-tensorrt: no GPU", "1.010 × of the one quantised by NNCF"):
        assert part in text, part


def test_plot_is_a_drawing_of_its_own_with_a_bar_per_row(table):
    drawing = plot.drawing([recorded(table), recorded(table, size=256)])
    root = ElementTree.fromstring(drawing)
    bars = [float(bar.get("width")) for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(bars) == 2 * 5
    assert bars[0] == max(bars)
    assert "11.6 ms, -1.00 mAP" in drawing
    assert "prefers-color-scheme" in drawing
