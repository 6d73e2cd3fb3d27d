"""Reader of a data set in COCO form: values that training and evaluation share.

The layout is ``<data_dir>/{train2017,val2017}/`` for the images and
``<data_dir>/annotations/instances_{train2017,val2017}.json`` for the annotations.
Everything that is wrong is collected and reported at once, before the first step, as one
:class:`DataError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from model.data_error import DataError, Problems

__all__ = ["SPLITS", "Category", "CategoryTable", "CocoDataset", "CocoImage", "DataError"]

SPLITS = ("train2017", "val2017")
_OUTSIDE_TOLERANCE = 1.0


@dataclass(frozen=True)
class Category:
    """One class: its index in the network's output, its id in the annotations, its name."""

    index: int
    id: int
    name: str


@dataclass(frozen=True)
class CategoryTable:
    """The classes in the order of the network's outputs; kept in every checkpoint."""

    categories: tuple[Category, ...]

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.categories)

    @property
    def ids(self) -> tuple[int, ...]:
        """Annotation ids by class index."""
        return tuple(category.id for category in self.categories)

    @property
    def names(self) -> tuple[str, ...]:
        """Names by class index."""
        return tuple(category.name for category in self.categories)

    def index_by_id(self) -> dict[int, int]:
        """Map an annotation's category id to its class index."""
        return {category.id: category.index for category in self.categories}

    def to_json(self) -> list[dict[str, Any]]:
        """Return a form that JSON can hold: ``[{"index", "id", "name"}, ...]``."""
        return [{"index": c.index, "id": c.id, "name": c.name} for c in self.categories]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]]) -> CategoryTable:
        """Read back what :meth:`to_json` gave."""
        return cls(
            tuple(Category(int(r["index"]), int(r["id"]), str(r["name"])) for r in rows)
        )

    def differences(self, other: CategoryTable) -> list[str]:
        """Say which of ``other``'s categories this table lacks by id *and* name; order is free."""
        mine = {category.id: category.name for category in self.categories}
        messages = []
        for category in other.categories:
            known = mine.get(category.id)
            if known is None:
                messages.append(f"category {category.id} {category.name!r} is unknown here")
            elif known != category.name:
                messages.append(
                    f"category {category.id} is {category.name!r} there and {known!r} here"
                )
        return messages


@dataclass(frozen=True)
class CocoImage:
    """One image: its id, the path of its file, its size in pixels as annotated."""

    id: int
    path: str
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """The images of a split in order of their ids, with their boxes.

    ``box_table`` (M, 5) float64 holds x1, y1, x2, y2 in pixels of the original image and the class
    index; the rows of image ``i`` are ``box_table[box_starts[i]:box_starts[i + 1]]``. In a
    training set crowd boxes are left out, and images none of whose annotations is larger than a
    pixel both ways; an image with nothing but crowd boxes stays as a negative, as the counts say.
    """

    split: str
    annotation_file: Path
    images: tuple[CocoImage, ...]
    box_table: np.ndarray
    box_starts: np.ndarray
    categories: CategoryTable
    images_left_out: int
    crowd_boxes_left_out: int

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def negatives(self) -> int:
        """How many images have no box to learn."""
        return int(np.count_nonzero(np.diff(self.box_starts) == 0))

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The ids of the images, ascending."""
        return tuple(image.id for image in self.images)

    def boxes(self, index: int) -> np.ndarray:
        """Return the boxes (n, 5) of the image at position ``index``; read only."""
        return self.box_table[self.box_starts[index] : self.box_starts[index + 1]]

    @classmethod
    def load(
        cls, data_dir: str | Path, split: str, *, categories: CategoryTable | None = None,
        training: bool | None = None, annotation_file: str | Path | None = None,
    ) -> CocoDataset:
        """Read ``split`` ("train2017" or "val2017") of ``data_dir``.

        ``categories`` is the table that the network was built for: this split's categories must be
        among them by id and name, whatever their order. ``training`` says whether crowds and empty
        images are left out (default: for "train2017"). ``annotation_file`` replaces the usual one.
        Raises DataError with every mistake found.
        """
        root = Path(data_dir)
        folder = root / split
        file = Path(annotation_file or root / "annotations" / f"instances_{split}.json")
        problems = Problems(f"{root} ({split})")
        _check_layout(root, folder, file, problems)
        content = _read_annotations(file, problems)
        table = _read_categories(content["categories"], file, problems)
        if categories is not None:
            for message in categories.differences(table):
                problems.add(f"{file}: {message}; train and evaluate with the same categories")
            table = categories
        images = _read_images(content["images"], folder, file, problems)
        if training is None:
            training = split == "train2017"
        found = _read_boxes(content["annotations"], images, table, file, problems)
        problems.stop_if_any()
        return _assemble(split, file, table, images, found, training=training)


def _check_layout(root: Path, folder: Path, file: Path, problems: Problems) -> None:
    if not root.is_dir():
        problems.add(f"{root}: is not a directory; set data_dir to the data set", missing=True)
    else:
        if not folder.is_dir():
            problems.add(f"{folder}: no such directory; it must hold the images", missing=True)
        if not file.is_file():
            problems.add(f"{file}: no such file; it must hold the annotations", missing=True)
    problems.stop_if_any()


def _without_outlines(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Drop the segmentation while parsing: in COCO it is nine tenths of the memory."""
    return {key: value for key, value in pairs if key != "segmentation"}


def _read_annotations(file: Path, problems: Problems) -> dict[str, list[Any]]:
    content: Any = None
    try:
        content = json.loads(file.read_bytes(), object_pairs_hook=_without_outlines)
    except OSError as error:
        problems.add(f"{file}: cannot be read ({error.strerror or error})", missing=True)
    except (ValueError, RecursionError) as error:
        problems.add(f"{file}: is no whole JSON document ({error}); was it cut short in copying?")
    problems.stop_if_any()
    if not isinstance(content, dict):
        problems.add(f"{file}: holds a {type(content).__name__}, not COCO's object")
        problems.stop_if_any()
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            found = type(content[key]).__name__ if key in content else "nothing"
            problems.add(f"{file}: {key!r} must be a list as in COCO, found {found}")
    problems.stop_if_any()
    return content


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_categories(rows: list[Any], file: Path, problems: Problems) -> CategoryTable:
    categories: list[Category] = []
    seen: set[int] = set()
    for position, row in enumerate(rows):
        if not isinstance(row, dict) or not _is_int(row.get("id")) or "name" not in row:
            problems.add(f"{file}: categories[{position}] needs a whole-number id and a name")
        elif row["id"] in seen:
            problems.add(f"{file}: category id {row['id']} stands there twice")
        else:
            seen.add(row["id"])
            categories.append(Category(len(categories), row["id"], str(row["name"])))
    if not rows:
        problems.add(f"{file}: 'categories' is empty; there is nothing to learn")
    return CategoryTable(tuple(categories))


def _read_images(
    rows: list[Any], folder: Path, file: Path, problems: Problems
) -> dict[int, CocoImage]:
    images: dict[int, CocoImage] = {}
    listings: dict[str, set[str]] = {}
    for position, row in enumerate(rows):
        where = f"{file}: images[{position}]"
        if not isinstance(row, dict) or not _is_int(row.get("id")):
            problems.add(f"{where} needs a whole-number id")
            continue
        name, size = row.get("file_name"), (row.get("width"), row.get("height"))
        if row["id"] in images:
            problems.add(f"{where}: id {row['id']} stands there twice")
        elif not isinstance(name, str) or not _stays_inside(name):
            problems.add(f"{where}: file_name must be a path inside {folder}, found {name!r}")
        elif not all(_is_int(side) and side > 0 for side in size):
            problems.add(f"{where}: width and height must be whole and positive, found {size}")
        else:
            path = folder / name
            images[row["id"]] = CocoImage(row["id"], str(path), *size)
            if not _is_listed(path, listings):
                problems.add(f"{path}: no such image, but {file.name} names it", missing=True)
    if not rows:
        problems.add(f"{file}: 'images' is empty")
    return images


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


@dataclass
class _Found:
    """Boxes by image id, which images have something larger than a pixel, crowds by image id."""

    boxes: dict[int, list[list[float]]]
    worth_keeping: set[int]
    crowds: int = 0


def _read_boxes(
    rows: list[Any], images: dict[int, CocoImage], table: CategoryTable, file: Path,
    problems: Problems,
) -> _Found:
    found = _Found({image_id: [] for image_id in images}, set())
    index_by_id = table.index_by_id()
    for position, row in enumerate(rows):
        mistake = _mistake_in(row, images, index_by_id)
        if mistake:
            problems.add(f"{file}: annotations[{position}]: {mistake}")
            continue
        x, y, width, height = (float(value) for value in row["bbox"])
        if width > 1 and height > 1:
            found.worth_keeping.add(row["image_id"])
        if row.get("iscrowd", 0):
            found.crowds += 1
            continue
        category = index_by_id[row["category_id"]]
        found.boxes[row["image_id"]].append([x, y, x + width, y + height, category])
    return found


def _mistake_in(row: Any, images: dict[int, CocoImage], index_by_id: dict[int, int]) -> str:
    """Say what is wrong with one annotation, or nothing. Boxes of no extent occur in COCO."""
    if not isinstance(row, dict):
        return f"must be an object, found {type(row).__name__}"
    image_id, category_id, box = row.get("image_id"), row.get("category_id"), row.get("bbox")
    if not isinstance(image_id, int) or image_id not in images:
        return f"image_id {image_id!r} is not among the images"
    if not isinstance(category_id, int) or category_id not in index_by_id:
        return f"category_id {category_id!r} is not among the categories"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"bbox must be four finite numbers x, y, width, height, found {box!r}"
    if box[2] < 0 or box[3] < 0:
        return f"bbox {box} has a negative size; COCO's form is x, y, width, height"
    image = images[image_id]
    right, bottom = image.width + _OUTSIDE_TOLERANCE, image.height + _OUTSIDE_TOLERANCE
    left_or_above = box[0] + box[2] < -_OUTSIDE_TOLERANCE or box[1] + box[3] < -_OUTSIDE_TOLERANCE
    if left_or_above or box[0] > right or box[1] > bottom:
        return f"bbox {box} lies outside its image of {image.width}x{image.height} pixels"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _assemble(
    split: str, file: Path, table: CategoryTable, images: dict[int, CocoImage], found: _Found,
    *, training: bool,
) -> CocoDataset:
    kept = sorted(found.worth_keeping if training else images)
    rows = [box for image_id in kept for box in found.boxes[image_id]]
    box_table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    starts = np.cumsum([0] + [len(found.boxes[image_id]) for image_id in kept])
    box_table.flags.writeable = starts.flags.writeable = False
    return CocoDataset(
        split=split,
        annotation_file=file,
        images=tuple(images[image_id] for image_id in kept),
        box_table=box_table,
        box_starts=starts,
        categories=table,
        images_left_out=len(images) - len(kept),
        crowd_boxes_left_out=found.crowds,
    )
