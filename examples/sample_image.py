"""Write one of the photographs that come along as an image file, to have something to predict on.

python examples/sample_image.py photo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from edge.data import open_dataset

SHOWN = "airplane90"


def main(path: Path) -> None:
    photographs = open_dataset("aerial", "test")
    index = next(index for index in range(len(photographs)) if photographs[index].name.startswith(SHOWN))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photographs[index].image).save(path)
    present = [name for name, label in zip(photographs.classes, photographs.labels[index], strict=True) if label > 0]
    print(f"{path}: {', '.join(present)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "photo.png"))
