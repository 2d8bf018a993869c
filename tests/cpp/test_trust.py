"""A bundle is data from outside: path tricks, sizes and types in its manifest are refused, in both
languages, before anything loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge import Engine, backends
from edge.bundle import Bundle
from edge.errors import EdgeError
from edge.fit import check_fit
from edge.spec import ImageSpec, ModelSpec, TargetSpec

DIGEST = "0" * 64
TRICKS = {
    "a file above the folder": lambda one: one["files"].update({"../x": {"sha256": DIGEST, "bytes": 1}}),
    "an absolute file": lambda one: one["files"].update({"/etc/passwd": {"sha256": DIGEST, "bytes": 1}}),
    "a payload above the folder": lambda one: one["engine"].update(payload="../engine.xml"),
    "a payload without digest": lambda one: one["engine"].update(payload="other.xml"),
    "a plugin without digest": lambda one: one["engine"].update(plugin={"file": "/tmp/evil.so", "sha256": DIGEST}),
    "a plugin that is a word": lambda one: one["engine"].update(plugin="engine.xml"),
    "a plugin without a file": lambda one: one["engine"].update(plugin={}),
    "a profile of two batches": lambda one: one["engine"].update(profiles=[[1, 8]]),
    "a profile beyond memory": lambda one: one["engine"].update(profiles=[[1, 8, 1 << 40]]),
    "a plan beyond memory": lambda one: one["engine"].update(plan_bytes=1 << 50),
    "a plan of no size": lambda one: one["engine"].update(plan_bytes="10"),
    "a plan of one stage": lambda one: one["engine"].update(stages={"look": {}}),
    "a plan of a third stage": lambda one: one["engine"].update(stages={"look": {}, "closer": {}, "again": {}}),
    "a plan that is a word": lambda one: one["engine"].update(stages={"look": {}, "closer": "engine.xml"}),
    "a plan of a stage without digest": lambda one: one["engine"].update(stages={"look": {}, "closer": {"payload": "other.plan"}}),
    "a profile of a stage beyond memory": lambda one: one["engine"].update(stages={"look": {}, "closer": {"profiles": [[1, 1, 100001]]}}),
    "a machine that is a word": lambda one: one["engine"].update(machine="8.7"),
    "an engine file that is not listed": lambda one: one["files"].pop("engine.bin"),
    "a size beyond memory": lambda one: one["image"].update(size=1 << 40),
    "a batch beyond memory": lambda one: one["target"].update(batches=[1, 1 << 40]),
    "a number longer than a float": lambda one: one["image"].update(size=int("9" * 400)),
    "labels that are no words": lambda one: one["model"].update(labels=[1, 2]),
    "a label twice": lambda one: one["model"].update(labels=["a", "a"]),
    "two channels": lambda one: one["image"].update(std=[1, 1]),
    "a std of zero": lambda one: one["image"].update(std=[1, 0, 1]),
    "thresholds of another length": lambda one: one["model"].update(thresholds=[0.5]),
    "a key of the model that nobody knows": lambda one: one["model"].update(stages=2),
    "a key of the image that nobody knows": lambda one: one["image"].update(channels=3),
    "a key of the target that nobody knows": lambda one: one["target"].update(cores=4),
    "a digest that is none": lambda one: one["files"]["engine.bin"].update(sha256="x"),
}


# What TensorRT's backend alone reads, in a bundle of that backend.
OF_TENSORRT = ("a plugin", "a profile", "a plan", "a machine")


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_in_the_manifest_is_refused_in_both_languages(copied: Path, open_native, rewrite, trick: str) -> None:
    if trick.startswith(OF_TENSORRT):
        rewrite(copied, {}, lambda manifest: manifest["target"].update(backend="tensorrt"))
        Bundle.read(copied).verify()
        with pytest.raises(RuntimeError, match="built for tensorrt"):
            open_native(copied)
    rewrite(copied, {}, TRICKS[trick])
    with pytest.raises(EdgeError, match=r"\[(load|spec)\]"):
        Bundle.read(copied).verify()
    with pytest.raises(RuntimeError, match=r"\[load\] (?!The engine was built for)"):
        open_native(copied)


def test_names_in_messages_are_text_of_one_line_in_both_languages(tmp_path: Path, open_native) -> None:
    evil = tmp_path / "a\x1b[31m\nb\u202e\x9b\u2028雪"
    with pytest.raises(EdgeError) as ours:
        Engine.load(evil)
    with pytest.raises(RuntimeError, match=r"^\[load\] ") as native:
        open_native(evil)
    for said in (str(ours.value), str(native.value)):
        assert said.isprintable(), said
        assert r"a\x1b[31m" in said
        assert "雪" in said


def test_what_a_plan_cannot_do_without_is_asked_for_before_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    target = TargetSpec("tensorrt", "fp32", (1,))
    monkeypatch.setattr(backends, "require", lambda name: backends.Support())
    bundle = Bundle(Path("mine"), {"engine": {"payload": "engine.plan", "plan_bytes": 3}}, ModelSpec("m", ("a",)), ImageSpec(), target)
    with pytest.raises(EdgeError, match=r"profiles\b.*edge.build --from mine"):
        check_fit(bundle)


@pytest.mark.parametrize("facts", [{"network": 5}, {"layers": "many"}, {"layers": {"layers": 1}}, {"regions": "plugin", "machine": [1]}])
def test_an_account_of_facts_in_another_form_says_so(facts: dict) -> None:
    assert backends.describe_engine("tensorrt", facts) == ["what the manifest says of the engine has another form"]


def test_a_file_that_stands_beside_the_listed_ones_is_not_taken(copied: Path, open_native) -> None:
    (copied / "engine.plugin.so").write_bytes(b"\x7fELF")
    with pytest.raises(EdgeError, match=r"engine\.plugin\.so"):
        Engine.load(copied)
    with pytest.raises(RuntimeError, match=r"\[load\].*engine\.plugin\.so"):
        open_native(copied)


FORMS = {
    "two labels": (lambda manifest: manifest["model"].update(labels=["a", "b"]), {}, "global_scores"),
    "another size": (lambda manifest: manifest["image"].update(size=96), {}, "image"),
    "another name of the input": (None, {'"look/image"': '"look/picture"'}, "image"),
    "no scores": (None, {'"look/global_scores"': '"look/other"'}, "global_scores"),
    "no regions": (None, {'"look/regions"': '"look/other"'}, "regions"),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_engine_of_another_form_than_its_manifest_says_is_refused_when_loaded(copied: Path, open_native, rewrite, form: str) -> None:
    change, names, named = FORMS[form]
    model = (copied / "engine.xml").read_text()
    for name, other in names.items():
        assert name in model
        model = model.replace(name, other)
    rewrite(copied, {"engine.xml": model.encode()}, change or (lambda manifest: None))
    with pytest.raises(RuntimeError, match=rf"\[load\].*\b{named}\b.*python -m edge\.build"):
        open_native(copied)
    if form == "two labels":  # the others: tests/test_engine.py
        with pytest.raises(EdgeError), Engine.load(copied) as engine:
            engine.predict([np.zeros((8, 8, 3), np.uint8)])


@pytest.mark.parametrize(
    ("name", "data"),
    [("engine.xml", b"\x00\xff<net" * 100), ("engine.xml", b""), ("engine.xml", None), ("engine.bin", b""), ("engine.bin", None)],
    ids=["noise", "no model", "half a model", "no weights", "half the weights"],
)
def test_an_engine_that_is_garbage_with_right_digests_is_refused_in_one_line(
    copied: Path, open_native, rewrite, name: str, data: bytes | None
) -> None:
    whole = (copied / name).read_bytes()
    rewrite(copied, {name: whole[: len(whole) // 2] if data is None else data})
    with pytest.raises(RuntimeError, match=r"^\[load\] [^\n]+ python -m edge\.build [^\n]+$"):
        open_native(copied)
