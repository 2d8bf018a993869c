"""ONNX Runtime on the CPU: the reference runtime of every build, and an engine of its own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edge.backends.base import Backend, Facts, Form, Native, Runner, Support, engine_file, vendor_errors
from edge.cpu import VNNI, cores, needs_reduced_range
from edge.errors import EdgeError
from edge.manifest import REBUILD
from edge.spec import TargetSpec

PAYLOAD = "engine.onnx"
TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}


def library() -> Native:
    """ONNX Runtime, its telemetry off unless the environment says ``ORT_DISABLE_TELEMETRY=0``: it reads that when imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class ONNXRuntime(Backend):
    """Its fact of an int8 engine is ``reduced_range``: which weights edge.lower.unsigned gave it; not every processor can run both."""

    name = "onnxruntime"
    lowering = "onnxruntime"

    def probe(self) -> Support:
        try:
            onnxruntime = library()
        except ImportError as error:
            return Support(reason=f"onnxruntime does not import ({error})", fix='pip install "mcar-edge[onnxruntime]"')
        facts = {"reduced_range": needs_reduced_range()}
        return Support(version=onnxruntime.__version__, device="CPU", builds=True, facts=facts)

    def build(self, lowered: bytes, target: TargetSpec, folder: Path, *, compute_capabilities: tuple[str, ...] = ()) -> Facts:
        if target.precision == "fp16":
            raise EdgeError(
                "backend",
                "ONNX Runtime has no 16-bit float on a CPU",
                "Change `precision` to fp32 or int8, or `backend` to openvino",
            )
        (folder / PAYLOAD).write_bytes(lowered)
        Session(lowered)  # loading it now is the proof that it loads
        return {"payload": PAYLOAD, **({"reduced_range": needs_reduced_range()} if target.precision == "int8" else {})}

    def open(
        self, payload: Mapping[str, bytes], target: TargetSpec, facts: Facts, *, cuda: str = "bindings", graphs: bool = True
    ) -> Session:
        return Session(engine_file(payload, PAYLOAD))

    def misfits(self, facts: Facts) -> list[str]:
        return [] if isinstance(facts.get("reduced_range"), bool | None) else ["reduced_range"]

    def check_fit(self, facts: Facts, support: Support, rebuild: str) -> None:
        """Refuse int8 weights of 8 bits where two products are added in 16: the sums would saturate, and the scores be wrong."""
        if facts.get("reduced_range") is False and support.facts.get("reduced_range"):
            raise EdgeError("load", f"The engine's 8-bit weights need VNNI ({' or '.join(VNNI)}), which this processor lacks", rebuild)

    def lowers_anew(self, facts: Facts, target: TargetSpec, support: Support) -> bool:
        """The range of weights follows from the processor, and an older bundle does not say what it holds."""
        return target.precision == "int8" and facts.get("reduced_range") != support.facts.get("reduced_range")


class Session(Runner):
    """An ONNX graph on ONNX Runtime's CPU provider.

    Args:
        model: an ONNX model of standard operators.
        outputs: names of the tensors to return; default all graph outputs.
        threads: threads inside an operator; default all cores this process may use.
    """

    def __init__(self, model: bytes, outputs: Sequence[str] | None = None, threads: int | None = None) -> None:
        self._model = model
        with vendor_errors("backend", "ONNX Runtime does not accept the graph", "Rebuild the bundle, or report the graph"):
            self._session: Native = library().InferenceSession(model, _options(threads), providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.outputs = tuple(outputs or (value.name for value in self._session.get_outputs()))

    def forms(self) -> dict[str, Form]:
        return {
            value.name: Form(TYPES.get(value.type, value.type), tuple(size if isinstance(size, int) else None for size in value.shape))
            for value in (*self._session.get_inputs(), *self._session.get_outputs())
        }

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """images: (B, 3, S, S) float32 → the outputs by name."""
        with vendor_errors("infer", "ONNX Runtime cannot run the engine", REBUILD):
            return dict(zip(self.outputs, self._session.run(self.outputs, {self._input: images}), strict=True))

    def profile(self, images: np.ndarray, runs: int = 10) -> dict[str, float]:
        """Median seconds of every node, by name; from a second session that writes a trace."""
        with tempfile.TemporaryDirectory() as folder:
            options = _options(None)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "trace")
            session = library().InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
            for _ in range(runs + 2):
                session.run(self.outputs, {self._input: images})
            events = json.loads(Path(session.end_profiling()).read_text())
        seconds: dict[str, list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                seconds.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] / 1e6)
        return {name: float(np.median(values[2:])) for name, values in seconds.items() if len(values) > 2}

    def close(self) -> None:
        self._session = None


def _options(threads: int | None) -> Native:
    options = library().SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or cores()
    # An idle session's threads must not spin against those of a busy one. A pool shared by the whole process would do too, but
    # then every session that the application makes itself is refused.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


PROVIDES: Mapping[str, Backend] = {"onnxruntime": ONNXRuntime()}
