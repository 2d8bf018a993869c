"""Checks that a bundle fits this machine, its engine fits its manifest, and a batch fits the
engine."""

from __future__ import annotations

import platform
from collections.abc import Mapping

import numpy as np

from edge import backends
from edge.bundle import Bundle
from edge.cpu import VNNI
from edge.errors import EdgeError
from edge.graph import BOXES, CLOSER, INPUT, LOOK, OWNER, REGION_SCORES, WHOLE
from edge.manifest import REBUILD


def check_fit(bundle: Bundle) -> None:
    """Refuse, before anything is deserialised, a bundle that cannot run here."""
    target = bundle.target
    support = backends.require(target.backend)
    rebuild = f"Rebuild it here: python -m edge.build --from {bundle.path} --force"
    backends.backend(target.backend).check_fit(bundle.manifest["engine"], support, rebuild)
    if target.reduced_range is False and support.reduced_range:  # sums would saturate, and the scores be wrong
        raise EdgeError("load", f"The engine's 8-bit weights need VNNI ({' or '.join(VNNI)}), which this processor lacks", rebuild)
    if target.float16 and support.float16 != target.float16:
        here = f"{support.device} computes in {support.float16}" if support.float16 else f"{support.device} has no 16-bit float"
        raise EdgeError("load", f"The engine was built for {target.float16}; {here}", rebuild)
    built = bundle.manifest.get("tools", {}).get(target.backend)
    if isinstance(built, str) and built.split(".")[:1] != support.version.split(".")[:1]:
        raise EdgeError("load", f"The engine was built with {target.backend} {built}; here is {support.version}", rebuild)
    machine = bundle.manifest.get("machine", {}).get("architecture")
    if machine and machine != platform.machine():
        raise EdgeError("load", f"The engine was built for {machine}; this processor is {platform.machine()}", rebuild)


def check_form(bundle: Bundle, found: Mapping[str, Mapping[str, backends.Form]]) -> None:
    """Refuse an engine that takes or gives anything else than its manifest describes; how many at
    once may be left open.

    Args:
        found: by stage, its inputs and outputs by name, as ``Runner.forms`` tells them.
    """
    form, classes = backends.Form, len(bundle.model.labels)
    given = next((forms["region_classes"] for forms in found.values() if "region_classes" in forms), None)
    regions = bundle.model.options.get("regions", given.shape[1] if given and len(given.shape) > 1 else None)
    image, scores = form(bundle.image.input, (None, *bundle.image.shape)), form("float32", (None, classes))
    places = {"regions": form("float32", (None, regions, 4)), "region_classes": form("int64", (None, regions))}
    streams = dict.fromkeys(("global_scores", "local_scores"), scores)
    if bundle.stages is None:
        needed = {WHOLE: {INPUT: image, "scores": scores, **(places if set(places) & set(found.get(WHOLE, ())) else {})}}
        allowed = {WHOLE: {**needed[WHOLE], **places, **streams}}
    else:
        allowed = needed = {
            LOOK: {INPUT: image, "global_scores": scores, **places},
            CLOSER: {INPUT: image, BOXES: form("float32", (None, 4)), OWNER: form("int32", (None,)), REGION_SCORES: scores},
        }
    if set(found) != set(needed):
        raise EdgeError("load", f"The stages of the engine in {bundle.path} are not those in its manifest", REBUILD)
    for stage, forms in found.items():
        for name in sorted(set(needed[stage]) - set(forms)):
            raise EdgeError("load", f"The engine of {bundle.path} has no {name}", REBUILD)
        for name, one in forms.items():
            if name not in allowed[stage]:
                raise EdgeError("load", f"The engine of {bundle.path} has {name} ({one}), which its manifest does not describe", REBUILD)
            expected = allowed[stage][name]
            batch, *sizes = one.shape or (0,)
            fits = one.dtype == expected.dtype and tuple(sizes) == expected.shape[1:] and None not in sizes
            exact = bundle.stages.sizes if bundle.stages and stage == CLOSER and name != INPUT else bundle.target.batches
            if not fits or (batch is not None and (batch,) != exact):
                raise EdgeError("load", f"{name} of the engine of {bundle.path} is {one}; its manifest describes {expected}", REBUILD)


def checked_batch(batch: np.ndarray, bundle: Bundle) -> np.ndarray:
    """The batch as one contiguous array, of the shape and type that the engine takes."""
    image, most = bundle.image, bundle.target.max_batch
    try:
        array = np.asarray(batch)
    except ValueError as error:  # rows of several lengths
        raise EdgeError("infer", f"The batch is not an array: {str(error)[:80]}", "Use edge.image.preprocess, or Engine.predict") from error
    if array.ndim != 4 or array.shape[1:] != image.shape or array.dtype != image.input:
        raise EdgeError(
            "infer",
            f"The batch is {array.dtype} {array.shape}; the engine takes {image.input} (B, {', '.join(map(str, image.shape))})",
            "Use edge.image.preprocess, or Engine.predict",
        )
    if not 1 <= array.shape[0] <= most:
        problem = f"The batch has {array.shape[0]} images; the engine takes 1 to {most}"
        raise EdgeError("infer", problem, "Split it, or build with a larger `batch`")
    return np.ascontiguousarray(array)
