"""The facts of a TensorRT engine in stages, in C++ as in Python; its runner needs a GPU, and is
only compiled (test_runtime)."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge import backends
from edge.bundle import Bundle


def staged(one: dict) -> None:
    """Facts of two plans, as a build of TensorRT writes them: what is of both beside what is of
    each."""
    one["target"].update(backend="tensorrt")
    one["engine"] = {
        "plugin": None,
        "machine": {"version": "10.16.0", "compute_capability": "8.7"},
        "stages": {
            "look": {"payload": "engine.xml", "plan_bytes": 10, "profiles": [[1, 1, 1], [3, 3, 3]]},
            "closer": {"payload": "engine.bin", "plan_bytes": 10, "profiles": [[1, 1, 1], [1, 100000, 100000]]},
        },
    }


def test_facts_of_each_stage_are_read_in_both_languages(copied: Path, open_native, rewrite) -> None:
    rewrite(copied, {}, staged)
    bundle = Bundle.read(copied)
    bundle.verify()
    assert backends.describe_engine("tensorrt", bundle.manifest["engine"]) == []
    with pytest.raises(RuntimeError, match="built for tensorrt"):  # the manifest is right, and this library runs OpenVINO
        open_native(copied)
