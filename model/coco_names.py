"""The 80 categories of COCO in the order of its annotations, for checkpoints that name none.

The ModelZoo's trainer stores no category table; its networks of 80 classes are COCO's.
"""

from __future__ import annotations

from model.categories import Category, CategoryTable

# The annotations number their categories up to 90 and leave these ids out.
_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


def coco_categories() -> CategoryTable:
    """Return COCO's table: class index by rising category id."""
    ids = [number for number in range(1, 91) if number not in _GAPS]
    rows = enumerate(zip(ids, _NAMES, strict=True))
    return CategoryTable(tuple(Category(i, number, name) for i, (number, name) in rows))
