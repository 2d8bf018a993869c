"""The options of a build: one field per flag of ``edge.build``, validated on construction."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path

from edge.backends import BACKENDS
from edge.bundle import MAX_SIZE
from edge.errors import EdgeError, one_of
from edge.models import MODELS, TEST_DATA
from edge.spec import INPUTS, MAX_BATCH, PRECISIONS, ImageSpec

AUTO = "auto"
MAX_SEED = (1 << 63) - 1  # what torch and NumPy both take
POOLINGS = ("avg", "gwp", "max")
METHODS = ("entropy", "percentile", "minmax", "mse")
REPAIRS = ("bias-correction", "equalisation", "rounding")
BATCH = 8  # of a build that names none
CALIBRATION_IMAGES = 256  # of a calibration that names none
MAX_EFFORT_DROP = 0.1  # points of mAP that an automatic effort may cost
READ_BY_REBUILD = ("backend", "tensorrt", "batch", "input", "compute_capability", "effort", "max_effort_drop", "dataset", "output", "force")


@dataclass(frozen=True)
class BuildOptions:
    """What to build. Every field has a default: ``BuildOptions()`` is the shipped MobileNetV2,
    int8, for the best backend here.

    Attributes:
        model: architecture, a key of ``edge.models.MODELS``; None: that of the weights.
        weights: a shipped name, the path of a checkpoint, or ``random`` (seeded, to try the
            pipeline); None: the shipped ones of ``model``, or ``mcar-mobilenetv2-ucmerced`` without
            it.
        labels: text file of class names, one per line; None: those of the weights.
        size: input side in pixels, a multiple of 32 up to 4096; None: that of the weights, else
            256.
        regions: regions of the second pass, 1 to the number of classes; None: that of the weights,
            else 4.
        threshold: localisation threshold in (0, 1); None: that of the weights, else 0.5.
        pooling: global pooling, ``avg``, ``gwp`` (the mean of both) or ``max``; None: that of the
            weights, else ``avg``.
        precision: ``fp32``, ``fp16`` (the target's 16-bit float) or ``int8``, which is the default.
        backend: a key of ``edge.backends.BACKENDS``, or ``auto`` (the default): the first of
            tensorrt, openvino and onnxruntime that works here; in a rebuild, the bundle's own.
        tensorrt: prepare a bundle whose engine is built on a device with this version of TensorRT;
            None (the default): build the engine here.
        input: ``float32`` for normalised images, or ``uint8`` for resized pixels; None:
            ``float32``, in a rebuild that of the bundle.
        batch: largest batch, 1 to 4096 images; None: 8, in a rebuild that of the bundle.
        compute_capability: tensorrt-rtx only: GPUs to build for, such as ``("8.6", "8.9")``; empty
            (the default): all it supports.
        dataset: images to calibrate int8 and, if labelled, to choose ``effort``: ``scenes``,
            ``csv:DIR``, ``voc2007:ROOT``, ``voc2012:ROOT``, ``coco2014:ROOT`` or, without labels,
            ``images:DIR``; None, and ``aerial``, which is only judged on: the shipped tables;
            without one None is ``scenes`` for weights trained on them and for random ones.
        calib_method: int8: how ranges are clipped, ``entropy``, ``percentile``, ``minmax`` or
            ``mse`` (the default).
        calib_images: int8: number of calibration images, used even if there is a shipped table;
            None: 256, if there is no table.
        calibration: int8: path of an existing ``calibration.json``, instead of images.
        repair: int8: repairs of rounding errors, of ``bias-correction``, ``equalisation`` and
            ``rounding`` (default: all).
        max_map_drop: int8: return layers to float until the loss of mAP on validation images is at
            most this many points (0..100); None (the default): no gate.
        effort: share of the regions that the second pass processes, 0 to 1, or ``auto``: the
            cheapest that keeps mAP on validation images; None: ``auto`` for shipped weights and
            those written by edge.train, else 1, in a rebuild that of the bundle.
        max_effort_drop: points of mAP (0..100) that ``auto`` may lose against effort 1; None: 0.1,
            or that of the shipped table.
        output: bundle folder; None: ``engines/<weights>-<size>-<precision>-<backend>``, in a
            rebuild the bundle itself.
        force: replace an existing bundle (default: no).
        seed: for random weights and image sampling, 0 to 2^63 − 1 (default 0).

    Raises:
        EdgeError: a value out of range, or a field that would have no effect with the others.
    """

    model: str | None = None
    weights: str | None = None
    labels: Path | str | None = None
    size: int | None = None
    regions: int | None = None
    threshold: float | None = None
    pooling: str | None = None
    precision: str = "int8"
    backend: str = AUTO
    tensorrt: str | None = None
    input: str | None = None
    batch: int | None = None
    compute_capability: tuple[str, ...] = ()
    dataset: str | None = None
    calib_method: str = "mse"
    calib_images: int | None = None
    calibration: Path | str | None = None
    repair: tuple[str, ...] = REPAIRS
    max_map_drop: float | None = None
    effort: float | str | None = None
    max_effort_drop: float | None = None
    output: Path | str | None = None
    force: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("precision", PRECISIONS),
            ("backend", (AUTO, *BACKENDS)),
            ("calib_method", METHODS),
        ):
            self._check_one_of(name, vars(self)[name], allowed)
        for name, allowed in (("model", tuple(MODELS)), ("pooling", POOLINGS), ("input", INPUTS)):
            if vars(self)[name] is not None:
                self._check_one_of(name, vars(self)[name], allowed)
        for repair in self.repair:
            self._check_one_of("repair", repair, REPAIRS)
        for name, least, most, range_ in (
            ("batch", 1, MAX_BATCH, f"1 to {MAX_BATCH}"),
            ("regions", 1, None, "1 or more"),
            ("calib_images", 1, None, f"1 or more; {CALIBRATION_IMAGES} are usual"),
            ("seed", 0, MAX_SEED, "0 to 2^63 − 1"),
        ):
            value = vars(self)[name]
            self._check(name, value is None or (_is_whole(value) and least <= value <= (most or value)), range_)
        if self.size is not None:
            self._check("size", _is_whole(self.size), "a multiple of 32")
            ImageSpec(self.size)
            check_size(self.size)
        self._check("threshold", self.threshold is None or (_is_number(self.threshold) and 0 < self.threshold < 1), "a value inside (0, 1)")
        for name in ("max_map_drop", "max_effort_drop"):
            drop = vars(self)[name]
            self._check(name, drop is None or (_is_number(drop) and 0 <= drop < math.inf), "0 or more")
        effort = self.effort
        self._check("effort", effort in (None, AUTO) or (_is_number(effort) and 0 <= effort <= 1), f"{AUTO} or 0 to 1")  # type: ignore[operator]
        if self.tensorrt is not None and self.backend not in (AUTO, "tensorrt"):
            raise EdgeError("build", f"`tensorrt` has no effect with `backend` {self.backend}", "Leave one of them out")
        self._refuse_unread()

    @property
    def given(self) -> frozenset[str]:
        """Names of the fields that differ from their defaults."""
        return frozenset(field.name for field in fields(self) if vars(self)[field.name] != field.default)

    def _check(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            value = vars(self)[name]
            shown = f"{value:g}" if isinstance(value, float) else repr(value)
            raise EdgeError("build", f"`{name}` is {shown}", f"Use {allowed}")

    def _check_one_of(self, name: str, value: object, allowed: Collection[str]) -> None:
        if value not in allowed:
            raise EdgeError("build", f"`{name}` is {value!r}", f"Use {one_of(allowed)}")

    def _refuse_unread(self) -> None:
        """Refuse options without effect, since whoever sets one relies on it."""
        if self.precision != "int8":
            # Calibration images may be given for any precision: one script then builds them all.
            refuse_unread(self.given & {"max_map_drop", "repair"}, f"at `precision` {self.precision}", "build `precision` int8")
        elif self.calibration is not None:
            refuse_unread(self.given & {"calib_images"}, "where `calibration` gives a table", "leave `calibration` out")
        if self.effort not in (None, AUTO):
            refuse_unread(self.given & {"max_effort_drop"}, f"at `effort` {self.effort:g}", "set `effort` to auto")


def deciding(dataset: str | None) -> str | None:
    """The data set, unless its images are only there to be judged on: nothing is calibrated or
    decided on those."""
    return None if dataset == TEST_DATA else dataset


def refuse_unread(names: Collection[str], why: str, fix: str) -> None:
    """Refuse fields that would be ignored."""
    if names:
        listed = ", ".join(f"`{name}`" for name in sorted(names))
        raise EdgeError("build", f"{listed} would have no effect {why}", f"Leave it out, or {fix}")


def check_size(size: int) -> None:
    """Refuse an image size that no bundle may have."""
    if size > MAX_SIZE:
        raise EdgeError("build", f"`size` is {size}, which is too large", f"Set `size` to {MAX_SIZE} or less")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
