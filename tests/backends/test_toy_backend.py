"""What a new backend takes: one class and a row in the table. Build, predict, bench and doctor then
work with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge import backends, bench, build, command, doctor, predict
from edge.backends.base import Backend, Form, Runner, Support, engine_file
from edge.graph import WHOLE
from edge.spec import StagesSpec, TargetSpec

pytest.importorskip("onnxruntime")


class ToyRunner(Runner):
    """Any way from images to outputs will do; here another runtime's."""

    def __init__(self, model: bytes) -> None:
        from edge.backends.onnxruntime import Session

        self._session = Session(model, threads=1)

    def forms(self) -> dict[str, Form]:
        return self._session.forms()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._session.run(inputs)


class Toy(Backend):
    name = "toy"
    lowering = "standard-nodes"

    def probe(self) -> Support:
        return Support(version="1.0", device="toy processor", builds=True)

    def build(
        self,
        lowered: Mapping[str, bytes],
        target: TargetSpec,
        stages: StagesSpec | None,
        folder: Path,
        *,
        compute_capabilities: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        (folder / "engine.toy").write_bytes(lowered[WHOLE])
        return {"payload": "engine.toy", "colour": "red"}

    def open(
        self, payload: Mapping[str, bytes], target: TargetSpec, facts: Mapping[str, Any], *, cuda: str = "bindings", graphs: bool = True
    ) -> Mapping[str, Runner]:
        return {WHOLE: ToyRunner(engine_file(payload, "engine.toy"))}

    def misfits(self, facts: Mapping[str, Any]) -> list[str]:
        return [] if isinstance(facts.get("colour"), str) else ["colour"]

    def describe(self, facts: Mapping[str, Any]) -> list[str]:
        return [*super().describe(facts), *([f"painted {facts['colour']}"] if "colour" in facts else [])]


PROVIDES: Mapping[str, Backend] = {"toy": Toy()}


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setitem(backends.BACKENDS, "toy", __name__)
    words = ["--weights", "random", "--size", "64", "--batch", "1", "--precision", "fp32", "--backend", "toy"]
    assert run(build, *words, "--output", tmp_path / "bundle") == 0
    return tmp_path / "bundle"


def run(module: Any, *words: object) -> int:
    return command.run(module.main, module.arguments().parse_args([str(word) for word in words]))


def test_every_command_works_with_it(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8)).save(photo)
    assert run(predict, bundle, photo, "--json", tmp_path / "predict.json") == 0
    assert len(json.loads((tmp_path / "predict.json").read_text())[0]["regions"]) == 4
    assert run(bench, bundle, "--batch", "1", "--no-accuracy", "--json", tmp_path / "bench.json") == 0
    assert json.loads((tmp_path / "bench.json").read_text())["backend"] == "toy"
    capsys.readouterr()
    assert run(doctor, bundle) == 0
    said = capsys.readouterr().out
    assert "works on toy processor" in said
    assert "painted red" in said


def test_its_own_facts_are_its_own_to_refuse(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["engine"]["colour"] = 5
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert run(doctor, bundle) == 1
    assert "wrong type or out of range: engine.colour" in capsys.readouterr().err
