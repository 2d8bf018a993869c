"""What a user gets without this project: the quantisers of ONNX Runtime and NNCF with their
defaults, and NNCF's slow one, on the same graph and images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edge.data import Dataset, batches
from edge.spec import ImageSpec

RANKED = 32  # images by which NNCF ranks layers: an engine is built and run for each layer


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


def write_validation(dataset: Dataset, image: ImageSpec, output: Path) -> None:
    """What ``quantize_nncf_slowly`` decides by: .npz of ``images`` (V, 3, S, S) float32,
    normalised, and ``labels`` (V, C) int8 of -1, 0, 1."""
    pixels = np.concatenate([images for _, images in batches(dataset, image, 8)])
    np.savez(output, images=pixels, labels=np.asarray(dataset.labels))


def quantize_nncf_slowly(
    reference: Path, images: Path, output: Path, *, validation: Path, max_drop: float, in_float: tuple[str, ...] = ()
) -> None:
    """NNCF's best after training: its slower bias correction, and what costs accuracy returned to
    float (``nncf.quantize_with_accuracy_control``).

    Args:
        reference, images, output, in_float: as for ``quantize_nncf``.
        validation: of ``write_validation``.
        max_drop: points of mAP that may be lost on them.
    """
    import nncf
    import openvino

    from edge.measure.accuracy import average_precision, evaluate

    rows = np.load(images, mmap_mode="r")
    with np.load(validation) as stored:
        pixels, labels = stored["images"], stored["labels"]

    def judge(model: openvino.CompiledModel, chosen: Iterable[int]) -> tuple[float, list[float]]:
        """mAP, and for each image the precision of its own ranking, by which NNCF finds those that
        lose most."""
        indices = list(chosen)
        scores = np.concatenate([model(pixels[index][None])["scores"] for index in indices])
        each = average_precision(scores.T, labels[indices].T)
        return evaluate(scores, labels[indices]).map, each.tolist()

    model = nncf.quantize_with_accuracy_control(
        openvino.Core().read_model(str(reference)),
        calibration_dataset=nncf.Dataset(range(len(rows)), lambda index: np.array(rows[index][None])),
        validation_dataset=nncf.Dataset(range(len(labels))),
        validation_fn=judge,
        max_drop=max_drop,
        subset_size=len(rows),
        fast_bias_correction=False,
        ignored_scope=nncf.IgnoredScope(patterns=list(in_float)) if in_float else None,
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=RANKED),
    )
    openvino.save_model(model, str(output), compress_to_fp16=False)


def refused_by_openvino(path: Path) -> str:
    """Why OpenVINO does not compile a model for the CPU; empty where it does."""
    import openvino

    try:
        openvino.Core().compile_model(str(path), "CPU")
    except RuntimeError as error:
        return " ".join(str(error).split())
    return ""
