"""OpenVINO on the CPU: the fastest engine on x86 with AMX or VNNI, and on Arm."""

from __future__ import annotations

import platform
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge.backends.base import Backend, Facts, Form, Native, Runner, Support, engine_file, vendor_errors
from edge.graph import BOXES, CLOSER, INPUT, LOOK, OUTPUTS, WHOLE
from edge.manifest import REBUILD
from edge.spec import StagesSpec, TargetSpec

PAYLOAD = "engine.xml"
WEIGHTS = "engine.bin"
# Seen with 2026.4.1 on an emulated Neoverse N1 (tests/arm): the first pass right, scores of the
# second off by up to 0.96.
INT8_ON_ARM = "under Arm emulation the scores of its second pass were wrong"


class OpenVINO(Backend):
    name = "openvino"
    lowering = "openvino"
    in_stages = True

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
            no_int8=INT8_ON_ARM if platform.machine().lower() in ("aarch64", "arm64") else "",
        )

    def build(
        self,
        lowered: Mapping[str, bytes],
        target: TargetSpec,
        stages: StagesSpec | None,
        folder: Path,
        *,
        compute_capabilities: tuple[str, ...] = (),
    ) -> Facts:
        """One file for all stages: OpenVINO stores a constant once, however many read it."""
        import openvino

        with vendor_errors("backend", "OpenVINO does not accept the graph", "Report the graph, or change `backend` to onnxruntime"):
            results, parameters = [], []
            for stage, data in lowered.items():
                model = openvino.Core().read_model(data, b"")
                for port in (*model.inputs, *model.outputs):
                    port.tensor.set_names({_prefix(stage) + _name(port)})
                results += model.get_results()
                parameters += model.get_parameters()
            # Sizes stay dynamic in the file; the runner compiles each exact one from it.
            openvino.save_model(openvino.Model(results, parameters, "engine"), str(folder / PAYLOAD), compress_to_fp16=False)
            runners = self.open({path.name: path.read_bytes() for path in folder.glob("engine.*")}, target, {})
            for stage, runner in runners.items():
                runner.compiled(target.batches[0] if stages is None or stage == LOOK else stages.sizes[-1])
        return {"payload": PAYLOAD}

    def open(
        self, payload: Mapping[str, bytes], target: TargetSpec, facts: Facts, *, cuda: str = "bindings", graphs: bool = True
    ) -> Mapping[str, OpenVINORunner]:
        import openvino

        with vendor_errors("load", "OpenVINO cannot read the engine", REBUILD):
            core = openvino.Core()
            # The weights are copied, and no file is mapped: nobody can change a loaded engine from
            # outside.
            model = core.read_model(engine_file(payload, PAYLOAD), engine_file(payload, WEIGHTS))
            names = {name for port in model.inputs for name in port.names}
            stages = (LOOK, CLOSER) if _prefix(LOOK) + INPUT in names else (WHOLE,)
            return {stage: OpenVINORunner(core, _stage(model, stage) if stage else model, target, stage) for stage in stages}


class OpenVINORunner(Runner):
    """A stage as an OpenVINO model, compiled for each exact size when that is first asked for.

    A static batch is up to a tenth faster than a dynamic one. *closer* is compiled by its number of
    regions; of how many images they are is left open, for only the crop reads them. One infer
    request per thread and size.

    Args:
        model: with the names of inputs and outputs under that of the stage.
    """

    pads = False

    def __init__(self, core: Native, model: Native, target: TargetSpec, stage: str = WHOLE) -> None:
        self._core, self._model, self._target = core, model, target
        self._prefix = _prefix(stage)
        self._compiled: dict[int, Native] = {}
        self._lock = threading.Lock()
        self._requests = threading.local()

    @classmethod
    def read(cls, model: bytes, target: TargetSpec, weights: bytes = b"") -> OpenVINORunner:
        """A model of somebody else: OpenVINO's XML with its weights, or ONNX."""
        import openvino

        core = openvino.Core()
        return cls(core, core.read_model(model, weights), target)

    def forms(self) -> dict[str, Form]:
        with vendor_errors("load", "OpenVINO cannot tell the form of the engine", REBUILD):
            return {
                self._own(port): Form(
                    port.element_type.to_dtype().name, tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape)
                )
                for port in (*self._model.inputs, *self._model.outputs)
            }

    def compiled(self, size: int) -> Native:
        """The compiled model for that exact number of images; of regions where it takes any."""
        with self._lock:
            if size not in self._compiled:
                model = self._model.clone()
                staged = len(model.inputs) > 1
                model.reshape(
                    {port: [-1 if staged and self._own(port) == INPUT else size, *list(port.partial_shape)[1:]] for port in model.inputs}
                )
                self._compiled[size] = self._core.compile_model(model, "CPU", properties(self._target))
            return self._compiled[size]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with vendor_errors("infer", "OpenVINO cannot run the engine", REBUILD):
            request, outputs = self._request(len(inputs[BOXES] if BOXES in inputs else next(iter(inputs.values()))))
            given = {self._prefix + name: value for name, value in inputs.items()}
            result = request.infer(given, share_inputs=True, share_outputs=True)
        # The request's own buffers are overwritten by its next call.
        return {name: value.copy() for name, value in zip(outputs, result.values(), strict=True)}

    def _request(self, size: int) -> tuple[Native, tuple[str, ...]]:
        """A request of this thread, and the names of its outputs."""
        requests: dict[str, tuple[Native, tuple[str, ...]]] = self._requests.__dict__
        name = str(size)
        if name not in requests:
            compiled = self.compiled(size)
            requests[name] = compiled.create_infer_request(), tuple(map(self._own, compiled.outputs))
        return requests[name]

    def _own(self, port: Native) -> str:
        return _name(port, self._prefix).removeprefix(self._prefix)

    def close(self) -> None:
        self._compiled.clear()
        self._requests = threading.local()
        self._model = None


def _prefix(stage: str) -> str:
    return f"{stage}/" if stage else ""


def _stage(model: Native, stage: str) -> Native:
    """The part of a model whose inputs and outputs are named after that stage."""
    import openvino

    def belongs(node: Native) -> bool:
        return any(name.startswith(_prefix(stage)) for name in node.output(0).names)

    return openvino.Model(list(filter(belongs, model.get_results())), list(filter(belongs, model.get_parameters())), stage)


def _name(port: Native, prefix: str = "") -> str:
    """The graph's name of an input or output; a reshape swapped with what followed it leaves a port
    with both their names."""
    names: set[str] = port.names
    ours = (name for name in names if (name.startswith(prefix) if prefix else name in OUTPUTS))
    return next(ours, str(port.any_name))


def properties(target: TargetSpec) -> dict[str, str | bool]:
    """How a target is compiled. The precision hint never lets the runtime choose: coordinates stay
    in fp32.

    With the hint unset or bf16, a CPU with bf16 runs the arithmetic between the backbones in bf16
    too, and boxes move.
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
