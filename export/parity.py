"""The parity check of every build: the torch model against its graph, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from edge.errors import EdgeError
from edge.spec import ImageSpec

SCORE_TOLERANCE = 1e-4
BOX_SHARE = 0.99


@dataclass(frozen=True)
class Parity:
    """How far a graph is from its model.

    Attributes:
        images: how many images were compared.
        score_error: largest absolute difference of a score that saw the same input: all images, but
            for what a second pass adds only those whose regions are equal.
        boxes_within_one: share of box coordinates within one pixel, over regions of the same class;
            1.0 without regions.
        classes_equal: share of regions that name the same class; 1.0 without regions.
    """

    images: int
    score_error: float
    boxes_within_one: float
    classes_equal: float

    @property
    def holds(self) -> bool:
        return self.score_error <= SCORE_TOLERANCE and min(self.boxes_within_one, self.classes_equal) >= BOX_SHARE

    def plain(self) -> dict[str, float]:
        return asdict(self)


def check_parity(
    model: torch.nn.Module, run: Callable[[np.ndarray], Mapping[str, np.ndarray]], image: ImageSpec, *, seed: int = 0
) -> Parity:
    """Compare on seeded blob images; raises when scores or boxes are off.

    Args:
        run: the graph on some runtime: (B, 3, S, S) float32 → outputs by name.

    Raises:
        EdgeError: scores differ by more than 1e-4, or fewer than 99 % of the box coordinates are
            within one pixel.
    """
    # Rounding at a threshold crossing can move one box; whether that is an accident shows over more
    # images.
    for images in (2, 16):
        batch = blob_images(images, image.size, seed)
        with torch.inference_mode():
            expected = {name: value.numpy() for name, value in model(torch.from_numpy(batch)).items()}
        parity = compare(expected, run(batch))
        if parity.holds:
            return parity
    raise EdgeError(
        "export",
        f"The graph and the model differ: scores are off by {parity.score_error:.2g} (at most {SCORE_TOLERANCE:g}), "
        f"{parity.boxes_within_one:.1%} of the box coordinates are within one pixel and {parity.classes_equal:.1%} of the region classes "
        f"equal (at least {BOX_SHARE:.0%})",
        "Report this with the checkpoint's architecture and the versions of torch and onnxruntime",
    )


def compare(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> Parity:
    """The figures of two sets of outputs for the same images."""
    count = len(expected["scores"])
    if "regions" not in expected:
        return Parity(count, float(np.abs(expected["scores"] - found["scores"]).max()), 1.0, 1.0)
    classes = expected["region_classes"] == found["region_classes"]
    apart = np.abs(expected["regions"] - found["regions"])
    same_input = classes.all(1) & (apart == 0).all((1, 2))
    # Only a second pass makes scores depend on boxes.
    behind = ("scores", "local_scores") if "local_scores" in expected else ()
    errors = [np.abs(expected[name] - found[name]).max() for name in ("scores", "global_scores") if name in expected and name not in behind]
    errors += [np.abs(expected[name] - found[name])[same_input].max() for name in behind if same_input.any()]
    within = float((apart[classes] <= 1).mean()) if classes.any() else 0.0
    # NaN must not pass for small.
    return Parity(count, float(np.nan_to_num(np.max(errors), nan=np.inf)), within, float(classes.mean()))


def blob_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """(count, 3, size, size) float32: soft coloured blobs on noise, so that class maps have
    peaks."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    images = rng.standard_normal((count, 3, size, size), dtype=np.float32) * 0.2
    for image in images:
        for _ in range(8):
            centre_x, centre_y, radius = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.03, 0.25)
            blob = np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * radius**2)).astype(np.float32)
            image += rng.uniform(-2, 2.5, 3).astype(np.float32)[:, None, None] * blob
    return images
