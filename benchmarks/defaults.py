"""What a user gets without this project: the quantisers of ONNX Runtime and NNCF with their
defaults, on the same graph and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def quantize_onnxruntime(reference: Path, images: Path, output: Path) -> None:
    """``onnxruntime.quantization.quantize_static``, every option at its default.

    Args:
        reference: FP32 graph of standard nodes.
        images: .npy (N, 3, S, S) float32, normalised.
        output: .onnx to write.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    name = onnx.load(str(reference)).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter(np.load(images, mmap_mode="r"))

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {name: np.array(row[None])}

    quantize_static(str(reference), str(output), Reader())


def quantize_nncf(reference: Path, images: Path, output: Path, in_float: tuple[str, ...] = ()) -> None:
    """``nncf.quantize`` with its defaults, to OpenVINO's format.

    Args:
        reference: ONNX graph with one image input.
        images: .npy (N, 3, S, S) float32, normalised.
        output: .xml to write.
        in_float: patterns of node names that are left alone; the default leaves none.
    """
    import nncf
    import openvino

    rows = np.load(images, mmap_mode="r")
    data = nncf.Dataset(range(len(rows)), lambda index: np.array(rows[index][None]))
    ignored = nncf.IgnoredScope(patterns=list(in_float)) if in_float else None
    model = nncf.quantize(openvino.Core().read_model(str(reference)), data, ignored_scope=ignored)
    openvino.save_model(model, str(output), compress_to_fp16=False)


def refused_by_openvino(path: Path) -> str:
    """Why OpenVINO does not compile a model for the CPU; empty where it does."""
    import openvino

    try:
        openvino.Core().compile_model(str(path), "CPU")
    except RuntimeError as error:
        return " ".join(str(error).split())
    return ""
