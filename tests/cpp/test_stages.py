"""Engines in two stages, and of one graph as bundles of schema 1 hold them: C++ gives what Python
gives, and refuses the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edge import Engine, backends
from edge.bundle import REFERENCE, Bundle, write_bundle
from edge.errors import EdgeError
from edge.spec import StagesSpec

IMAGES = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
COUNTS = (1, 2, 3)
OUTPUTS = {"scores", "global_scores", "local_scores", "regions", "region_classes"}


def agree(bundle: Path, native) -> None:
    with Engine.load(bundle) as engine:
        for count in COUNTS:
            expected, found = engine.infer(IMAGES[:count]), native.infer(IMAGES[:count])
            assert set(expected) - {"regions_looked"} == OUTPUTS
            for name in OUTPUTS:
                np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{name}, {count} images")


@pytest.fixture(scope="module")
def one_graph(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as one graph, in the words of schema 1."""
    from edge import lower
    from edge.backends.openvino import OpenVINO

    old = Bundle.read(bundle)
    folder = tmp_path_factory.mktemp("schema1") / "bundle"
    write_bundle(
        folder,
        graph=old.graph(),
        reference=old.read_file(REFERENCE),
        lowered=lower.lower_stages(old.graph().parse(), old.target, row="openvino", in_stages=False),
        target=old.target,
        stages=None,
        build_engine=OpenVINO().build,
        facts={name: old.manifest[name] for name in ("tools", "machine", "lowering", "weights", "trained")},
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["schema"] = 1
    del manifest["stages"], manifest["target"]["reduced_range"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_batch_gives_exactly_what_python_gives(small_bundle, open_native, precision: str) -> None:
    if precision == "int8" and (reason := backends.probe("openvino").no_int8):
        pytest.skip(reason)
    bundle = small_bundle("openvino", precision)
    assert Bundle.read(bundle).stages == StagesSpec((1, 2, 3, 4))
    agree(bundle, open_native(bundle))


@pytest.mark.parametrize("sizes", [[1], [3], [2, 5], [7, 100]], ids=str)
def test_regions_are_cut_to_the_sizes_and_padded(copied: Path, rewrite, open_native, bundle: Path, sizes: list[int]) -> None:
    """One, two and three images have 4, 8 and 12 regions."""
    rewrite(copied, {}, lambda manifest: manifest["stages"].update(sizes=sizes))
    native, usual = open_native(copied), open_native(bundle)
    agree(copied, native)
    for name, value in usual.infer(IMAGES).items():
        np.testing.assert_allclose(native.infer(IMAGES)[name], value, atol=1e-5, err_msg=name)


def test_the_scores_are_the_maximum_of_both_passes(open_native, bundle: Path) -> None:
    found = open_native(bundle).infer(IMAGES)
    np.testing.assert_array_equal(found["scores"], np.maximum(found["global_scores"], found["local_scores"]))
    assert (found["local_scores"] > 0).all()


def test_what_is_no_number_stays_as_in_python(open_native, bundle: Path) -> None:
    images = IMAGES.copy()
    images[1] = np.nan
    with Engine.load(bundle) as engine:
        expected, found = engine.infer(images), open_native(bundle).infer(images)
    for name in OUTPUTS:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_threads_with_batches_of_all_sizes_agree_with_python(open_native, bundle: Path) -> None:
    native = open_native(bundle)
    with Engine.load(bundle) as engine:
        expected = {(start, count): engine.infer(IMAGES[start : start + count]) for count in COUNTS for start in range(4 - count)}

    def work(turn: int) -> None:
        start, count = sorted(expected)[turn % len(expected)]
        for name, value in native.infer(IMAGES[start : start + count]).items():
            np.testing.assert_array_equal(value, expected[start, count][name], err_msg=name)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(120)))


def test_a_bundle_of_schema_1_still_runs(one_graph: Path, bundle: Path, open_native) -> None:
    native, staged = open_native(one_graph), open_native(bundle)
    agree(one_graph, native)
    for count in COUNTS:
        for name, value in staged.infer(IMAGES[:count]).items():
            np.testing.assert_allclose(native.infer(IMAGES[:count])[name], value, atol=1e-5, err_msg=name)


def test_an_engine_in_other_stages_than_its_manifest_says_is_refused(
    one_graph: Path, copied: Path, tmp_path: Path, open_native, rewrite
) -> None:
    whole = Path(shutil.copytree(one_graph, tmp_path / "whole"))
    rewrite(whole, {}, lambda manifest: manifest.update(schema=2, stages={"sizes": [1, 2, 4]}))
    rewrite(copied, {}, lambda manifest: manifest.update(stages=None))
    for folder, words in ((whole, "one graph and not two stages"), (copied, "two stages and not one graph")):
        with pytest.raises(RuntimeError, match=rf"^\[load\] The engine of {folder} [^\n]*{words}\. Rebuild [^\n]+$"):
            open_native(folder)
        with pytest.raises(EdgeError, match=r"has stages other than|are not those in its manifest"):
            Engine.load(folder)


# A change of the manifest, and what both languages name.
REFUSED: dict[str, tuple[Callable[[dict], object], str]] = {
    "a key of the stages that nobody knows": (lambda one: one["stages"].update(policy="rank"), "policy"),
    "two of them": (lambda one: one["stages"].update(looks=2, sizes=[1], effort=0.5), "looks"),
    "sizes that fall": (lambda one: one["stages"].update(sizes=[4, 2]), "ascending"),
    "a size twice": (lambda one: one["stages"].update(sizes=[2, 2]), "ascending"),
    "no sizes": (lambda one: one["stages"].update(sizes=[]), "ascending"),
    "no key of sizes": (lambda one: one["stages"].pop("sizes"), "sizes"),
    "a size of nothing": (lambda one: one["stages"].update(sizes=[0, 4]), "ascending|sizes"),
    "a size beyond memory": (lambda one: one["stages"].update(sizes=[1, 1 << 40]), "sizes"),
    "a size that is a word": (lambda one: one["stages"].update(sizes=["4"]), "sizes"),
    "a size that is a truth": (lambda one: one["stages"].update(sizes=[True]), "sizes"),
    "stages as a list": (lambda one: one.update(stages=[1, 2, 4]), "stages"),
    "a range that is a word": (lambda one: one["target"].update(reduced_range="yes"), "reduced_range"),
    "a schema to come": (lambda one: one.update(schema=3), "reads schemas 1 and 2"),
    "a schema before the first": (lambda one: one.update(schema=0), "reads schemas 1 and 2"),
    "a schema that is a truth": (lambda one: one.update(schema=True), "reads schemas 1 and 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_stages_of_another_form_are_refused_in_one_line(copied: Path, open_native, rewrite, case: str) -> None:
    change, named = REFUSED[case]
    rewrite(copied, {}, change)
    with pytest.raises(RuntimeError, match=rf"^\[load\] [^\n]*({named})[^\n]* python -m edge\.build[^\n]+$"):
        open_native(copied)
    with pytest.raises(EdgeError, match=rf"\[(load|spec)\] [^\n]*({named})"):
        Bundle.read(copied)


# Names in the engine that are another's, and what is said of them.
PORTS = {
    "look/image": ("look/picture", "no look/image"),
    "look/global_scores": ("look/scores", "no look/global_scores"),
    "look/regions": ("look/region", "no look/regions"),
    "closer/boxes": ("closer/box", "no closer/boxes"),
    "closer/owner": ("owner", "owner, which is of no stage"),
    "closer/region_scores": ("closer/scores", "no closer/region_scores"),
    "closer/image": ("look/again", r"cannot read the engine|no closer/image"),
}


@pytest.mark.parametrize("port", PORTS)
def test_each_stage_has_the_form_that_the_manifest_describes(copied: Path, open_native, rewrite, port: str) -> None:
    other, says = PORTS[port]
    model = (copied / "engine.xml").read_text()
    assert f'"{port}"' in model
    rewrite(copied, {"engine.xml": model.replace(f'"{port}"', f'"{other}"').encode()})
    with pytest.raises(RuntimeError, match=rf"^\[load\] [^\n]*{says}[^\n]* python -m edge\.build[^\n]+$"):
        open_native(copied)


def test_two_classes_fewer_than_the_second_stage_scores_are_refused(copied: Path, open_native, rewrite) -> None:
    rewrite(copied, {}, lambda manifest: manifest["model"].update(labels=["a", "b"], thresholds=[]))
    with pytest.raises(RuntimeError, match=r"look/global_scores is f32 \(\?, \d+\) and not f32 \(\?, 2\)"):
        open_native(copied)
