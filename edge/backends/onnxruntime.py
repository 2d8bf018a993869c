"""ONNX Runtime on the CPU: the reference runtime of every build, and an engine of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edge.backends.base import Backend, Facts, Form, Native, Runner, Support, engine_file, vendor_errors
from edge.cpu import cores, needs_reduced_range
from edge.errors import EdgeError
from edge.graph import CLOSER, LOOK, WHOLE
from edge.manifest import REBUILD
from edge.spec import StagesSpec, TargetSpec

PAYLOAD = "engine.onnx"
SHARED = "engine.weights.onnx"  # of two stages: the constants that both read
TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(uint8)": "uint8"}


def library() -> Native:
    """ONNX Runtime, its telemetry off unless the environment says ``ORT_DISABLE_TELEMETRY=0``: it
    reads that when imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class ONNXRuntime(Backend):
    """An engine in stages keeps what both read in a file of its own. Joined files are a model:
    protobuf merges what it reads in turn."""

    name = "onnxruntime"
    lowering = "onnxruntime"
    in_stages = True

    def probe(self) -> Support:
        try:
            onnxruntime = library()
        except ImportError as error:
            return Support(reason=f"onnxruntime does not import ({error})", fix='pip install "mcar-edge[onnxruntime]"')
        return Support(version=onnxruntime.__version__, device="CPU", builds=True, reduced_range=needs_reduced_range())

    def build(
        self,
        lowered: Mapping[str, bytes],
        target: TargetSpec,
        stages: StagesSpec | None,
        folder: Path,
        *,
        compute_capabilities: tuple[str, ...] = (),
    ) -> Facts:
        if target.precision == "fp16":
            raise EdgeError(
                "backend",
                "ONNX Runtime has no 16-bit float on a CPU",
                "Change `precision` to fp32 or int8, or `backend` to openvino",
            )
        if stages is None:
            (folder / PAYLOAD).write_bytes(lowered[WHOLE])
        else:
            from edge.lower.stages import parted

            shared, own = parted(lowered)
            (folder / SHARED).write_bytes(shared)
            for stage, data in own.items():
                (folder / stage_file(stage)).write_bytes(data)
        # Loading it now is the proof that it loads.
        self.open({path.name: path.read_bytes() for path in folder.glob("engine.*")}, target, {})
        return {"payload": PAYLOAD if stages is None else SHARED}

    def open(
        self, payload: Mapping[str, bytes], target: TargetSpec, facts: Facts, *, cuda: str = "bindings", graphs: bool = True
    ) -> Mapping[str, Session]:
        if SHARED not in payload:
            return {WHOLE: Session(engine_file(payload, PAYLOAD))}
        shared = engine_file(payload, SHARED)
        return {stage: Session(shared + engine_file(payload, stage_file(stage))) for stage in (LOOK, CLOSER)}


class Session(Runner):
    """An ONNX graph on ONNX Runtime's CPU provider.

    Args:
        model: an ONNX model of standard operators.
        outputs: names of the tensors to return; default all graph outputs.
        threads: threads inside an operator; default all cores this process may use.
    """

    pads = False

    def __init__(self, model: bytes, outputs: Sequence[str] | None = None, threads: int | None = None) -> None:
        with vendor_errors("backend", "ONNX Runtime does not accept the graph", "Rebuild the bundle, or report the graph"):
            self._session: Native = library().InferenceSession(model, _options(threads), providers=["CPUExecutionProvider"])
            self._session._model_bytes = None  # kept to start again with other providers, of which there are none
        self.outputs = tuple(outputs or (value.name for value in self._session.get_outputs()))

    def forms(self) -> dict[str, Form]:
        return {
            value.name: Form(TYPES.get(value.type, value.type), tuple(size if isinstance(size, int) else None for size in value.shape))
            for value in (*self._session.get_inputs(), *self._session.get_outputs())
        }

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with vendor_errors("infer", "ONNX Runtime cannot run the engine", REBUILD):
            return dict(zip(self.outputs, self._session.run(self.outputs, inputs), strict=True))

    def close(self) -> None:
        self._session = None


def stage_file(stage: str) -> str:
    """The file of a stage's own part."""
    return f"engine.{stage}.onnx"


def _options(threads: int | None) -> Native:
    options = library().SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or cores()
    # An idle session's threads must not spin against those of a busy one. A pool shared by the
    # whole process would do too, but then every session that the application makes itself is
    # refused.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


PROVIDES: Mapping[str, Backend] = {"onnxruntime": ONNXRuntime()}
