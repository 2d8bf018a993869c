"""OpenVINO on the CPU: the fastest engine on x86 with AMX or VNNI, and on Arm."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge.backends.base import Backend, Facts, Form, Native, Runner, Support, engine_file, vendor_errors
from edge.graph import OUTPUTS
from edge.manifest import REBUILD
from edge.spec import TargetSpec

PAYLOAD = "engine.xml"
WEIGHTS = "engine.bin"


class OpenVINO(Backend):
    name = "openvino"
    lowering = "openvino"

    def probe(self) -> Support:
        try:
            import openvino
        except ImportError as error:
            return Support(reason=f"openvino does not import ({error})", fix='pip install "mcar-edge[openvino]"')
        core = openvino.Core()
        if "CPU" not in core.available_devices:
            return Support(reason="OpenVINO has no CPU device here", fix="Reinstall openvino", version=openvino.__version__)
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        # bf16 first: on x86 the fp16 kernels of OpenVINO are slow even where the CPU lists them.
        float16 = "bf16" if "BF16" in able else "fp16" if "FP16" in able else None
        return Support(
            version=openvino.__version__.split("-")[0],
            device=core.get_property("CPU", "FULL_DEVICE_NAME"),
            float16=float16,
            builds=True,
            facts={"capabilities": sorted(able)},
        )

    def build(self, lowered: bytes, target: TargetSpec, folder: Path, *, compute_capabilities: tuple[str, ...] = ()) -> Facts:
        import openvino

        with vendor_errors("backend", "OpenVINO does not accept the graph", "Report the graph, or change `backend` to onnxruntime"):
            model = openvino.Core().read_model(lowered, b"")
            # The batch stays dynamic in the file; `open` compiles each exact batch from it.
            openvino.save_model(model, str(folder / PAYLOAD), compress_to_fp16=False)
            OpenVINORunner((folder / PAYLOAD).read_bytes(), target, (folder / WEIGHTS).read_bytes()).compiled(target.batches[0])
        return {"payload": PAYLOAD}

    def open(
        self, payload: Mapping[str, bytes], target: TargetSpec, facts: Facts, *, cuda: str = "bindings", graphs: bool = True
    ) -> OpenVINORunner:
        return OpenVINORunner(engine_file(payload, PAYLOAD), target, engine_file(payload, WEIGHTS))


class OpenVINORunner(Runner):
    """An OpenVINO model, compiled for each exact batch when that batch is first asked for.

    A static batch is up to a tenth faster than a dynamic one. One infer request per thread and batch.

    Args:
        model: OpenVINO's XML, or an ONNX model.
        weights: what belongs to the XML. OpenVINO copies it, and maps no file: nobody can change a loaded engine from outside.
    """

    def __init__(self, model: bytes, target: TargetSpec, weights: bytes = b"") -> None:
        import openvino

        with vendor_errors("load", "OpenVINO cannot read the engine", REBUILD):
            self._core = openvino.Core()
            self._model = self._core.read_model(model, weights)
        self._target = target
        self._compiled: dict[int, Native] = {}
        self._lock = threading.Lock()
        self._requests = threading.local()

    def forms(self) -> dict[str, Form]:
        with vendor_errors("load", "OpenVINO cannot tell the form of the engine", REBUILD):
            return {
                _name(port): Form(
                    port.element_type.to_dtype().name, tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape)
                )
                for port in (*self._model.inputs, *self._model.outputs)
            }

    def compiled(self, batch: int) -> Native:
        """The compiled model of that exact batch."""
        with self._lock:
            if batch not in self._compiled:
                model = self._model.clone()
                model.reshape({0: [batch, *list(model.input(0).partial_shape)[1:]]})
                self._compiled[batch] = self._core.compile_model(model, "CPU", properties(self._target))
            return self._compiled[batch]

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """images: (B, 3, S, S) float32, B one of the target's batches → the outputs by name, copied."""
        with vendor_errors("infer", "OpenVINO cannot run the engine", REBUILD):
            request = self._request(images.shape[0])
            result = request.infer({0: images}, share_inputs=True, share_outputs=True)
        # The request's own buffers are overwritten by its next call.
        return {_name(port): value.copy() for port, value in result.items()}

    def profile(self, images: np.ndarray, runs: int = 10) -> dict[str, float]:
        """Median seconds of every node the plugin runs, by name; from a copy compiled with counters."""
        model = self._model.clone()
        model.reshape({0: list(images.shape)})
        request = self._core.compile_model(model, "CPU", {**properties(self._target), "PERF_COUNT": True}).create_infer_request()
        seconds: dict[str, list[float]] = {}
        for run in range(runs + 2):
            request.infer({0: images}, share_inputs=True)
            if run >= 2:
                for node in request.get_profiling_info():
                    if node.real_time.total_seconds() > 0:
                        seconds.setdefault(node.node_name, []).append(node.real_time.total_seconds())
        return {name: float(np.median(values)) for name, values in seconds.items()}

    def _request(self, batch: int) -> Native:
        requests: dict[str, Native] = self._requests.__dict__  # of this thread
        name = str(batch)
        if name not in requests:
            requests[name] = self.compiled(batch).create_infer_request()
        return requests[name]

    def close(self) -> None:
        self._compiled.clear()
        self._requests = threading.local()
        self._model = None


def _name(port: Native) -> str:
    """The graph's name of an input or output; a reshape swapped with what followed it leaves a port with both their names."""
    return next((name for name in OUTPUTS if name in port.names), port.any_name)


def properties(target: TargetSpec) -> dict[str, str | bool]:
    """How a target is compiled. The precision hint never lets the runtime choose: coordinates stay in fp32.

    With the hint unset or bf16, a CPU with bf16 runs the arithmetic between the backbones in bf16 too, and boxes move.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "dynamic" if target.float16 else "f32",
        "NUM_STREAMS": "1",
    }


def runtime_nodes(compiled: Native) -> list[dict[str, str]]:
    """The nodes the CPU plugin really runs: type, precisions, original names."""
    nodes = []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: value.astype(str) for key, value in operation.get_rt_info().items()}
        nodes.append(
            {
                "type": facts.get("layerType", ""),
                "precision": facts.get("runtimePrecision", ""),
                "origin": facts.get("originalLayersNames", ""),
                "output_precisions": facts.get("outputPrecisions", ""),
            }
        )
    return nodes


PROVIDES: Mapping[str, Backend] = {"openvino": OpenVINO()}
