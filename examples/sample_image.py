"""Write one generated scene as an image file, to have something to predict on.

python examples/sample_image.py scene.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from edge.data import open_dataset


def main(path: Path) -> None:
    scenes = open_dataset("scenes", "test")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scenes[0].image).save(path)
    present = [name for name, label in zip(scenes.classes, scenes.labels[0], strict=True) if label > 0]
    print(f"{path}: {', '.join(present)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "scene.png"))
