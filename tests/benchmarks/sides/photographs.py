"""A data set of JPEGs in COCO's form: 300 to 640 pixels a side, with boxes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from tests.benchmarks.sides import report

QUALITY = 92
CATEGORIES = 80
BOXES = 7
"""A photograph of COCO has about seven boxes."""


def make(directory: Path, images: int, seed: int = 1) -> None:
    """Write `images` photographs and their annotations as the training split."""
    rng = np.random.default_rng(seed)
    (directory / "train2017").mkdir(parents=True)
    (directory / "annotations").mkdir()
    rows, boxes = [], []
    for number in range(1, images + 1):
        width, height = (int(n) for n in rng.integers(300, 641, 2))
        name = f"{number:012d}.jpg"
        picture = photograph(width, height, rng)
        parameters = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        cv2.imwrite(str(directory / "train2017" / name), picture, parameters)
        rows.append({"id": number, "file_name": name, "width": width, "height": height})
        boxes += [_box(number, width, height, rng) for _ in range(1 + rng.poisson(BOXES - 1))]
    annotations = [{"id": number, **box} for number, box in enumerate(boxes, start=1)]
    categories = [{"id": n, "name": f"thing {n}"} for n in range(1, CATEGORIES + 1)]
    document = {"images": rows, "annotations": annotations, "categories": categories}
    path = directory / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(document))


def photograph(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Soft shapes, finer ones upon them, and some grain: about as much to decode as a photo."""
    picture = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 120.0), (24, 60.0), (96, 25.0)):
        coarse = rng.random((cells, cells, 3), np.float32) * strength
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture += rng.normal(0, 8, picture.shape).astype(np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _box(image: int, width: int, height: int, rng: np.random.Generator) -> dict[str, object]:
    """One annotation; sizes are spread as in COCO, from a few pixels to the whole picture."""
    w, h = (float(max(4, side * min(rng.lognormal(-1.8, 0.9), 1))) for side in (width, height))
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    box = [round(float(value), 2) for value in (x, y, w, h)]
    category = int(rng.integers(1, CATEGORIES + 1))
    return {"image_id": image, "category_id": category, "bbox": box, "area": w * h, "iscrowd": 0}


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
    report(int(sys.argv[2]))
