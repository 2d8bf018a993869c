"""Prints what the installed TensorRT module has, in the form of the files beside this one:
``python record.py > 8.6.json``."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

KNOWN = json.loads((Path(__file__).parent / "10.3.json").read_text())


def surface(module: ModuleType) -> dict[str, Any]:
    """Names of the classes that the files list, numbers of their enumerations; those that this
    version lacks are left out."""
    classes = {name: getattr(module, name) for name in KNOWN["classes"] if hasattr(module, name)}
    enums = {name: getattr(module, name) for name in KNOWN["enums"] if hasattr(module, name)}
    return {
        "version": ".".join(module.__version__.split(".")[:2]),
        "tag": f"wheel {module.__version__}",
        "classes": {name: sorted(each for each in vars(found) if not each.startswith("_")) for name, found in classes.items()},
        "enums": {name: {member: int(value) for member, value in found.__members__.items()} for name, found in enums.items()},
        "plugin": [],
    }


if __name__ == "__main__":
    import tensorrt

    print(json.dumps(surface(tensorrt), indent=1))
