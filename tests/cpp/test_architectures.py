"""Every architecture runs in the C++ runtime and gives what it gives in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge import Engine
from edge.pipeline import BuildOptions, build

IMAGES = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
OUTPUTS = {
    "plain": {"scores"},
    "aamn": {"scores"},
    "rma": {"scores", "regions", "region_classes"},
    "mcar": {"scores", "global_scores", "local_scores", "regions", "region_classes"},
}


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
            assert set(expected) == outputs
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


def test_an_output_with_further_names_is_found(copied: Path, open_native, rewrite) -> None:
    """A reshape swapped with what followed it leaves an output with both their names."""
    model = (copied / "engine.xml").read_text()
    for name in OUTPUTS["mcar"]:
        assert f'output_names="{name}"' in model
        model = model.replace(f'names="{name}"', f'names="{name},a_{name}"')  # OpenVINO calls the first of them any name
    rewrite(copied, {"engine.xml": model.encode()})
    check(copied, open_native(copied), OUTPUTS["mcar"])
