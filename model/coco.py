"""Reader of a data set in COCO form: values that training and evaluation share.

The layout is ``<data_dir>/{train2017,val2017}/`` for the images and
``<data_dir>/annotations/instances_{train2017,val2017}.json`` for the annotations.
Everything that is wrong is collected and reported at once, before the first step, as one
:class:`DataError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.categories import Category, CategoryTable
from model.coco_scan import CocoImage, SplitScan, scan
from model.data_error import DataError, Problems
from model.image_file import MISSING

__all__ = ["SPLITS", "Category", "CategoryTable", "CocoDataset", "CocoImage", "DataError"]

SPLITS = ("train2017", "val2017")


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

    def account(self) -> str:
        """Say in one line what is trained and what is not."""
        return (
            f"{self.split}: {len(self)} images, {len(self.box_table)} boxes; {self.negatives} "
            f"images have none to learn; left out: {self.images_left_out} images without a box "
            f"larger than a pixel, {self.crowd_boxes_left_out} crowd boxes"
        )

    def boxes(self, index: int) -> np.ndarray:
        """Return the boxes (n, 5) of the image at position ``index``; read only."""
        return self.box_table[self.box_starts[index] : self.box_starts[index + 1]]

    @classmethod
    def load(
        cls,
        data_dir: str | Path,
        split: str,
        *,
        categories: CategoryTable | None = None,
        training: bool | None = None,
        annotation_file: str | Path | None = None,
        may_miss_images: bool = False,
    ) -> CocoDataset:
        """Read ``split`` ("train2017" or "val2017") of ``data_dir``.

        ``categories`` is the table that the network was built for: this split's categories must be
        among them by id and name, whatever their order. ``training`` says whether crowds and empty
        images are left out (default: for "train2017"). ``annotation_file`` replaces the usual one.
        Image files that are not there are a mistake unless ``may_miss_images``.
        Raises DataError with every mistake found.
        """
        tolerated = (MISSING,) if may_miss_images else ()
        problems = Problems(f"{data_dir} ({split})", tolerated=tolerated)
        found = scan(
            data_dir, split, problems, categories=categories, annotation_file=annotation_file
        )
        problems.stop_if_any()
        return _assemble(found, training=split == "train2017" if training is None else training)


def _assemble(found: SplitScan, *, training: bool) -> CocoDataset:
    kept = sorted(found.worth_keeping if training else found.images)
    rows = [box for image_id in kept for box in found.boxes[image_id]]
    box_table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    starts = np.cumsum([0] + [len(found.boxes[image_id]) for image_id in kept])
    box_table.flags.writeable = starts.flags.writeable = False
    return CocoDataset(
        split=found.split,
        annotation_file=found.file,
        images=tuple(found.images[image_id] for image_id in kept),
        box_table=box_table,
        box_starts=starts,
        categories=found.table,
        images_left_out=len(found.images) - len(kept),
        crowd_boxes_left_out=found.crowds,
    )
