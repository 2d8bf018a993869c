"""ONNX Runtime inside somebody else's process."""

from __future__ import annotations

import numpy as np
import pytest

from edge.engine import Engine

onnxruntime = pytest.importorskip("onnxruntime")


def test_the_application_keeps_sessions_of_its_own(small_bundle):
    bundle = small_bundle("onnxruntime")
    with Engine.load(bundle) as engine:
        image = np.zeros((1, 3, 64, 64), np.float32)
        own = onnxruntime.InferenceSession(str(bundle / "reference.onnx"), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(own.run(["scores"], {"image": image})[0], engine.infer(image)["scores"], atol=1e-5)
