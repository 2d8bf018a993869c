"""What trials leave on disk, besides their bundle: outputs on the validation images, and
measurements that are made once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge.atomic import write_atomically
from edge.backends.base import Facts
from edge.graph import Outputs


def remembered(path: Path, make: Callable[[], Facts]) -> Facts:
    """A measurement of an earlier run, so that one that was killed chooses the same."""
    found = recalled(path)
    if found is None:
        found = make()
        write_atomically(path, json.dumps(found) + "\n")
    return found


def recalled(path: Path) -> Facts | None:
    """A measurement of an earlier run; None where there is none."""
    try:
        found: Facts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found


def write_outputs(path: Path, outputs: Outputs) -> None:
    """Keep the outputs of an engine."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **outputs)  # type: ignore[arg-type]
    write_atomically(path, packed.getvalue())


def read_outputs(path: Path) -> Outputs | None:
    """Outputs that were kept; None where there are none, or damaged ones."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError):
        return None
