"""The one call for a machine with a GPU, on a machine without: nothing hangs, what was found is written, the rest is named."""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial

import pytest

from benchmarks import participants
from benchmarks.gpu import engines, report, run
from benchmarks.participants import Participant
from edge.backends import Support

# Starts a grandchild that outlives it and holds its output open.
LINGERS = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('said', flush=True)"


def test_what_a_step_leaves_running_holds_nothing_up() -> None:
    start = time.monotonic()
    output, code = run.ended_in_time([sys.executable, "-c", LINGERS], 30, {})
    assert (output, code) == ("said\n", 0)
    output, code = run.ended_in_time([sys.executable, "-c", f"{LINGERS}; time.sleep(60)"], 3, {})
    assert code == -1
    assert output.startswith("said")
    assert output.endswith("not done within 3 s")
    assert time.monotonic() - start < 40


def test_a_program_that_is_not_there_is_a_failed_step() -> None:
    output, code = run.ended_in_time(["/no/such/program"], 5, {})
    assert code == -1
    assert "No such file" in output


@pytest.fixture
def without_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "gpu_name", lambda: None)
    monkeypatch.setattr(run, "find_nvcc", lambda: None)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setenv("OUT", str(tmp_path))
    return tmp_path


def test_without_time_or_gpu_both_files_say_what_is_missing(without_gpu, monkeypatch) -> None:
    monkeypatch.setenv("BUDGET_S", "1")
    assert run.main() == 0
    document = json.loads((without_gpu / "kernels-no-gpu.json").read_text())
    assert "every GPU figure: no GPU on this machine" in document["missing"]
    assert "CPU tests: no time left" in document["missing"]
    assert document["failed"] == []
    assert "- missing: CPU tests: no time left" in (without_gpu / "kernels-no-gpu.md").read_text()


def test_what_was_found_is_written_before_the_next_step(without_gpu, monkeypatch) -> None:
    def cut_short(made: run.Run, nvcc: str | None) -> None:
        made.result["cpu_tests"] = "1 passed"
        made.call("a step", sys.executable, "-c", "raise SystemExit('no')")
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "cpu_part", cut_short)
    with pytest.raises(KeyboardInterrupt):
        run.main()
    document = json.loads((without_gpu / "kernels-no-gpu.json").read_text())
    assert document["cpu_tests"] == "1 passed"
    assert document["failures"] == {"a step": "no\n"}


def test_what_goes_without_what_is_said_before_anything_runs(without_gpu, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--check"])
    assert run.main() == 0
    said = capsys.readouterr().err
    assert "no a GPU" not in said
    assert "no GPU: every GPU figure" in said
    assert list(without_gpu.iterdir()) == []


def test_engines_are_compared_with_the_reference_and_timed_in_turns(small_bundle, monkeypatch, tmp_path) -> None:
    """The steps after building, with one engine and a participant that cannot run."""
    path = small_bundle("onnxruntime")
    monkeypatch.setattr(
        engines,
        "contenders",
        lambda args, built, batch: [
            Participant("mine", "onnxruntime", "fp32", partial(engines.bundle, built["mine"], graphs=True)),
            Participant("absent", "onnxruntime", "fp32", partial(participants.session, tmp_path / "none.onnx")),
        ],
    )
    file = tmp_path / "found.json"
    args = argparse.Namespace(size=64, rounds=2, turn=0.01)
    result = {"batches": {}, "answers": {}, "warnings": [], "bundles": {}, "model": "mcar-mobilenetv2", "size": 64}
    engines.measure(args, {"mine": path}, 1, result, lambda: engines._save(file, result))
    found = json.loads(file.read_text())
    row = found["batches"]["1"]["mine"]
    assert row["score_error"] < 1e-5
    assert row["class_agreement"] == 1.0
    assert row["p50_ms"] > 0
    assert list(found["answers"]) == ["absent, batch 1"]
    table = "\n".join(report.engine_tables(found))
    assert "| mine |" in table
    assert "- absent, batch 1 answered: " in table


def test_every_way_of_our_operations_into_tensorrt_is_built_once() -> None:
    def names(plugin: str | None) -> list[str]:
        support = Support(facts={"plugin": plugin})
        return [f"{suffix} {' '.join(each)}" for suffix, _, each in engines.routes("tensorrt", support, ("fp32", "fp16"))]

    assert names(None) == ["-standard fp32 fp16", "-aot fp16"]
    assert names("libedge_plugin.so") == ["-standard fp32 fp16", "-library fp32 fp16", "-aot fp16"]
    assert [suffix for suffix, _, _ in engines.routes("tensorrt-rtx", Support(), ("fp32",))] == [""]


def test_the_table_says_whether_the_crop_is_fast_enough() -> None:
    def table(percent: float) -> str:
        row = {"version": 5, "block_size": 128, "microseconds": 12.0, "percent_of_copy": percent}
        return report.table({"ladders": {"roi_resize": {"copy_gb_per_s": 4300, "rows": [row]}}}, "a GPU")

    assert "- met: 80 % of the copy bandwidth or more" in table(83.5)
    assert "- NOT met: 80 % of the copy bandwidth or more" in table(70.0)
