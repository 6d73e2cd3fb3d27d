"""Reading one split of a data set in COCO form, row by row; every mistake is noted, none hidden.

What training refuses is decided here: :mod:`model.coco` raises what was noted, and
:mod:`model.data_check` sorts it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from model.categories import Category, CategoryTable
from model.data_error import Problems
from model.image_file import MAX_PIXELS, MISSING

OUTSIDE_TOLERANCE = 1.0
"""Pixels by which a box may stand beside its image: annotators round."""

_INT64 = 1 << 63


@dataclass(frozen=True)
class CocoImage:
    """One image: its id, the path of its file, its size in pixels as annotated."""

    id: int
    path: str
    width: int
    height: int


@dataclass(frozen=True)
class SplitScan:
    """A split as it was read: what is in order of it, before anything is left out.

    ``boxes`` holds, by image id, [x1, y1, x2, y2, class index] of what is no crowd; the images of
    ``worth_keeping`` have an annotation, be it a crowd, larger than a pixel both ways.
    """

    split: str
    file: Path
    table: CategoryTable
    images: dict[int, CocoImage]
    boxes: dict[int, list[list[float]]]
    worth_keeping: set[int]
    crowds: int


def scan(
    data_dir: str | Path,
    split: str,
    problems: Problems,
    *,
    categories: CategoryTable | None = None,
    annotation_file: str | Path | None = None,
) -> SplitScan:
    """Read ``split`` of ``data_dir``, noting every mistake in ``problems`` and going on.

    Raises DataError, by way of ``problems``, only where nothing is left to go on with.
    """
    root = Path(data_dir)
    folder = root / split
    file = Path(annotation_file or root / "annotations" / f"instances_{split}.json")
    _check_layout(root, folder, file, problems)
    content = _read_annotations(file, problems)
    table = _read_categories(content["categories"], file, problems)
    if categories is not None:
        for message in categories.differences(table):
            text = f"{file}: {message}; train and evaluate with the same categories"
            problems.add(text, kind="categories_disagree")
        table = categories
    images = _read_images(content["images"], folder, file, problems)
    boxes, worth_keeping, crowds = _read_boxes(
        content["annotations"], images, table, file, problems
    )
    return SplitScan(split, file, table, images, boxes, worth_keeping, crowds)


def _check_layout(root: Path, folder: Path, file: Path, problems: Problems) -> None:
    if not root.is_dir():
        problems.add(
            f"{root}: is not a directory; set data_dir to the data set", kind="layout", missing=True
        )
    else:
        if not folder.is_dir():
            problems.add(
                f"{folder}: no such directory; it must hold the images", kind="layout", missing=True
            )
        if not file.is_file():
            problems.add(
                f"{file}: no such file; it must hold the annotations", kind="layout", missing=True
            )
    problems.stop_if_any()


def _without_outlines(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Drop the segmentation while parsing: in COCO it is nine tenths of the memory."""
    return {key: value for key, value in pairs if key != "segmentation"}


def _read_annotations(file: Path, problems: Problems) -> dict[str, list[Any]]:
    content: Any = None
    try:
        content = json.loads(file.read_bytes(), object_pairs_hook=_without_outlines)
    except OSError as error:
        problems.add(
            f"{file}: cannot be read ({error.strerror or error})", kind="layout", missing=True
        )
    except (ValueError, RecursionError) as error:
        problems.add(
            f"{file}: is no whole JSON document ({error}); was it cut short in copying?",
            kind="annotation_file",
        )
    problems.stop_if_any()
    if not isinstance(content, dict):
        problems.add(
            f"{file}: holds a {type(content).__name__}, not COCO's object", kind="annotation_file"
        )
        problems.stop_if_any()
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            found = type(content[key]).__name__ if key in content else "nothing"
            problems.add(
                f"{file}: {key!r} must be a list as in COCO, found {found}", kind="annotation_file"
            )
    problems.stop_if_any()
    return content


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_categories(rows: list[Any], file: Path, problems: Problems) -> CategoryTable:
    categories: list[Category] = []
    seen: set[int] = set()
    for position, row in enumerate(rows):
        if not isinstance(row, dict) or not _is_int(row.get("id")) or "name" not in row:
            problems.add(
                f"{file}: categories[{position}] needs a whole-number id and a name",
                kind="category_record",
            )
        elif row["id"] in seen:
            problems.add(
                f"{file}: category id {row['id']} stands there twice", kind="category_record"
            )
        else:
            seen.add(row["id"])
            categories.append(Category(len(categories), row["id"], str(row["name"])))
    if not rows:
        problems.add(
            f"{file}: 'categories' is empty; there is nothing to learn", kind="category_record"
        )
    return CategoryTable(tuple(categories))


def _read_images(
    rows: list[Any], folder: Path, file: Path, problems: Problems
) -> dict[int, CocoImage]:
    images: dict[int, CocoImage] = {}
    listings: dict[str, set[str]] = {}
    for position, row in enumerate(rows):
        mistake = _mistake_in_image(row, images, folder)
        if mistake:
            text = f"{file}: images[{position}]{mistake}"
            problems.add(text, kind="image_record", image_id=_id_of(row))
            continue
        image = CocoImage(row["id"], str(folder / row["file_name"]), row["width"], row["height"])
        images[image.id] = image
        if not _is_listed(Path(image.path), listings):
            text = f"{image.path}: no such image, but {file.name} names it"
            problems.add(text, kind=MISSING, image_id=image.id, missing=True)
        if image.width * image.height > MAX_PIXELS:
            text = (
                f"{image.path}: {image.width}x{image.height} pixels, more than the {MAX_PIXELS} "
                "that are decoded; shrink the image with its boxes, or cut it up"
            )
            problems.add(text, kind="image_too_large", image_id=image.id)
    if not rows:
        problems.add(f"{file}: 'images' is empty", kind="annotation_file")
    return images


def _mistake_in_image(row: Any, images: dict[int, CocoImage], folder: Path) -> str:
    """Say what is wrong with one image record, or nothing."""
    if not isinstance(row, dict) or not _is_int(row.get("id")) or abs(row["id"]) >= _INT64:
        return " needs a whole-number id"
    name, size = row.get("file_name"), (row.get("width"), row.get("height"))
    if row["id"] in images:
        return f": id {row['id']} stands there twice"
    if not isinstance(name, str) or not _stays_inside(name):
        return f": file_name must be a path inside {folder}, found {name!r}"
    if not all(_is_int(side) and side > 0 for side in size):
        return f": width and height must be whole and positive, found {size}"
    return ""


def _id_of(row: Any, key: str = "id") -> int | None:
    """Return the image's id if the record has one."""
    value = row.get(key) if isinstance(row, dict) else None
    return value if _is_int(value) else None


def _stays_inside(name: str) -> bool:
    parts = PurePosixPath(name)
    return bool(name) and not parts.is_absolute() and ".." not in parts.parts


def _is_listed(path: Path, listings: dict[str, set[str]]) -> bool:
    """Ask each folder once: a stat for every image is slow on shared storage."""
    parent = str(path.parent)
    if parent not in listings:
        try:
            listings[parent] = {entry.name for entry in path.parent.iterdir()}
        except OSError:
            listings[parent] = set()
    return path.name in listings[parent]


def _read_boxes(
    rows: list[Any],
    images: dict[int, CocoImage],
    table: CategoryTable,
    file: Path,
    problems: Problems,
) -> tuple[dict[int, list[list[float]]], set[int], int]:
    """Return the boxes by image id, the images worth keeping, and how many crowds there are."""
    boxes: dict[int, list[list[float]]] = {image_id: [] for image_id in images}
    worth_keeping: set[int] = set()
    crowds = 0
    index_by_id = table.index_by_id()
    for position, row in enumerate(rows):
        kind, mistake = _mistake_in(row, images, index_by_id)
        if mistake:
            text = f"{file}: annotations[{position}]: {mistake}"
            problems.add(text, kind=kind, image_id=_id_of(row, "image_id"))
            continue
        x, y, width, height = (float(value) for value in row["bbox"])
        if width > 1 and height > 1:
            worth_keeping.add(row["image_id"])
        if row.get("iscrowd", 0):
            crowds += 1
            continue
        category = index_by_id[row["category_id"]]
        boxes[row["image_id"]].append([x, y, x + width, y + height, category])
    return boxes, worth_keeping, crowds


def _mistake_in(
    row: Any, images: dict[int, CocoImage], index_by_id: dict[int, int]
) -> tuple[str, str]:
    """Say what is wrong with one annotation (kind, words). Boxes of no extent occur in COCO."""
    record = "annotation_record"
    if not isinstance(row, dict):
        return record, f"must be an object, found {type(row).__name__}"
    image_id, category_id, box = row.get("image_id"), row.get("category_id"), row.get("bbox")
    if not isinstance(image_id, int) or image_id not in images:
        return record, f"image_id {image_id!r} is not among the images"
    if not isinstance(category_id, int) or category_id not in index_by_id:
        return "unlisted_category", f"category_id {category_id!r} is not among the categories"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return record, f"bbox must be four finite numbers x, y, width, height, found {box!r}"
    if box[2] < 0 or box[3] < 0:
        return record, f"bbox {box} has a negative size; COCO's form is x, y, width, height"
    image = images[image_id]
    right, bottom = image.width + OUTSIDE_TOLERANCE, image.height + OUTSIDE_TOLERANCE
    left_or_above = box[0] + box[2] < -OUTSIDE_TOLERANCE or box[1] + box[3] < -OUTSIDE_TOLERANCE
    if left_or_above or box[0] > right or box[1] > bottom:
        size = f"{image.width}x{image.height}"
        return "box_outside", f"bbox {box} lies outside its image of {size} pixels"
    return "", ""


def _is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
