"""The reader of COCO-form directories: what it keeps, what it leaves out, what it refuses."""

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from model.coco import CategoryTable, CocoDataset, DataError

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]


def image(number: int, **extra: Any) -> dict[str, Any]:
    """Return an image record of 40x30 pixels."""
    return {"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30, **extra}


def box(image_id: int, *bbox: float, category: int = 7, **extra: Any) -> dict[str, Any]:
    """Return an annotation record."""
    return {"image_id": image_id, "category_id": category, "bbox": list(bbox), **extra}


def write(
    root: Path,
    images: list[Any],
    annotations: list[Any],
    categories: Any = CATEGORIES,
    split: str = "train2017",
    *,
    with_files: bool = True,
) -> Path:
    """Write a split of a data set below ``root``."""
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    for record in images if with_files else []:
        path = root / split / record["file_name"]
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.zeros((30, 40, 3), np.uint8))
    return root


def problems_of(root: Path, **options: Any) -> DataError:
    """Load the training split and return the error that must come."""
    with pytest.raises(DataError) as caught:
        CocoDataset.load(root, "train2017", **options)
    return caught.value


def test_images_come_in_order_of_ids_with_boxes_as_corners_and_class_index(tmp_path: Path) -> None:
    """Images are sorted by id; boxes are corners in pixels with the index in the JSON's order."""
    write(tmp_path, [image(9), image(2)], [box(9, 1, 2, 10, 20, category=3), box(2, 0, 0, 5.5, 6)])
    data = CocoDataset.load(tmp_path, "train2017")
    assert data.image_ids == (2, 9)
    assert data.boxes(0).tolist() == [[0, 0, 5.5, 6, 0]]
    assert data.boxes(1).tolist() == [[1, 2, 11, 22, 1]]
    assert data.categories.ids == (7, 3) and data.categories.names == ("cat", "dog")
    assert data.images[0].path == str(tmp_path / "train2017" / "2.jpg")


def test_crowds_and_images_without_a_real_box_are_left_out_of_training(tmp_path: Path) -> None:
    """A crowd-only image stays as a negative; one without a real box goes; both are counted."""
    annotations = [
        box(1, 0, 0, 9, 9), box(1, 0, 0, 30, 20, iscrowd=1), box(2, 5, 5, 1, 20),
        box(4, 0, 0, 30, 20, iscrowd=1), box(5, 3, 3, 0, 0), box(5, 3, 3, 4, 4, iscrowd=0),
    ]  # fmt: skip
    write(tmp_path, [image(n) for n in range(1, 6)], annotations)
    data = CocoDataset.load(tmp_path, "train2017")
    assert data.image_ids == (1, 4, 5)
    assert [len(data.boxes(i)) for i in range(3)] == [1, 0, 2]
    assert (data.negatives, data.images_left_out, data.crowd_boxes_left_out) == (1, 2, 2)


def test_an_evaluation_split_keeps_every_image(tmp_path: Path) -> None:
    """Images without any box count in evaluation."""
    write(tmp_path, [image(1), image(2)], [box(1, 0, 0, 9, 9)], split="val2017")
    assert CocoDataset.load(tmp_path, "val2017").image_ids == (1, 2)


def test_categories_of_another_order_are_matched_by_id_and_name(tmp_path: Path) -> None:
    """Classes keep the training table's indices when validation lists them the other way round."""
    write(tmp_path, [image(1)], [box(1, 0, 0, 9, 9)])
    write(tmp_path, [image(1)], [box(1, 0, 0, 9, 9)], CATEGORIES[::-1], "val2017")
    table = CocoDataset.load(tmp_path, "train2017").categories
    data = CocoDataset.load(tmp_path, "val2017", categories=table)
    assert data.boxes(0)[0, 4] == 0 and data.categories == table


def test_categories_that_differ_in_id_or_name_are_refused(tmp_path: Path) -> None:
    """A swapped name and an unknown id are both named."""
    write(tmp_path, [image(1)], [box(1, 0, 0, 9, 9)])
    table = CategoryTable.from_json(
        [{"index": 0, "id": 7, "name": "dog"}, {"index": 1, "id": 4, "name": "cat"}]
    )
    text = str(problems_of(tmp_path, categories=table))
    assert "category 7 is 'cat' there and 'dog' here" in text
    assert "category 3 'dog' is unknown here" in text


def test_the_category_table_survives_json() -> None:
    """What a checkpoint keeps gives the same table back."""
    rows = [{"index": 0, "id": 7, "name": "cat"}, {"index": 1, "id": 3, "name": "dog"}]
    table = CategoryTable.from_json(json.loads(json.dumps(rows)))
    assert table.to_json() == rows and table.index_by_id() == {7: 0, 3: 1} and len(table) == 2


def test_missing_directories_are_exit_code_66(tmp_path: Path) -> None:
    """A missing root is one problem; in a root both missing parts are named at once."""
    assert problems_of(tmp_path / "nowhere").exit_code == 66
    error = problems_of(tmp_path)
    assert error.exit_code == 66 and error.total == 2
    assert "train2017: no such directory" in str(error)
    assert "instances_train2017.json: no such file" in str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"images": [{"id"', "no whole JSON document"),
        ("", "no whole JSON document"),
        ("\udcff", "no whole JSON document"),
        ("[" * 200_000, "no whole JSON document"),
        ("[1, 2]", "not COCO's object"),
        ('{"images": [], "annotations": {}}', "'categories' must be a list"),
        ('{"images": [], "annotations": [], "categories": []}', "there is nothing to learn"),
    ],
)
def test_an_annotation_file_of_wrong_content_is_exit_code_65(
    tmp_path: Path, text: str, expected: str
) -> None:
    """A file that was cut short, is binary, nests without end or is no COCO says so."""
    write(tmp_path, [], [])
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    error = problems_of(tmp_path)
    assert error.exit_code == 65 and expected in str(error)


def test_missing_images_are_named_and_exit_code_66(tmp_path: Path) -> None:
    """Every missing image counts, also in a folder below the split's."""
    write(tmp_path, [image(1), image(2, file_name="deep/2.jpg")], [box(1, 0, 0, 9, 9)])
    (tmp_path / "train2017" / "1.jpg").unlink()
    error = problems_of(tmp_path)
    assert error.exit_code == 66 and error.total == 1 and "1.jpg: no such image" in str(error)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (box(99, 0, 0, 9, 9), "image_id 99 is not among the images"),
        (box(1, 0, 0, 9, 9, category=5), "category_id 5 is not among"),
        (box(1, 0, 0, 9), "four finite numbers"),
        (box(1, 0, 0, 9, float("nan")), "four finite numbers"),
        (box(1, 0, 0, "9", 9), "four finite numbers"),
        (box(1, 0, 0, 10**400, 9), "four finite numbers"),
        (box(1, 9, 9, -4, 5), "negative size"),
        (box(1, 50, 0, 9, 9), "outside its image of 40x30"),
        (box(1, -20, 0, 9, 9), "outside its image"),
        ("nonsense", "must be an object"),
        ({"image_id": [1]}, "image_id [1]"),
    ],
)
def test_bad_boxes_are_refused(tmp_path: Path, record: Any, expected: str) -> None:
    """Each kind of bad annotation is named with its position."""
    write(tmp_path, [image(1)], [box(1, 0, 0, 9, 9), record])
    error = problems_of(tmp_path)
    assert error.exit_code == 65 and "annotations[1]" in str(error) and expected in str(error)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (image(1), "id 1 stands there twice"),
        (image(2, width=0), "width and height"),
        (image(2, width=20_000, height=10_000), "shrink the image"),
        (image(1 << 63), "whole-number id"),
        (image(2, file_name="../../elsewhere.jpg"), "must be a path inside"),
        (image(2, file_name="/etc/passwd"), "must be a path inside"),
        ({"file_name": "x.jpg"}, "whole-number id"),
        (7, "whole-number id"),
    ],
)
def test_bad_image_records_are_refused(tmp_path: Path, record: Any, expected: str) -> None:
    """Each kind of bad image record is named, and no path leaves the data set."""
    write(tmp_path, [image(1)], [box(1, 0, 0, 9, 9)])
    write(tmp_path, [image(1), record], [box(1, 0, 0, 9, 9)], with_files=False)
    assert expected in str(problems_of(tmp_path))


def test_all_mistakes_come_at_once_and_long_lists_are_cut(tmp_path: Path) -> None:
    """Different mistakes stand in one message; beyond twenty they are only counted."""
    bad = [box(1, 0, 0, 9, 9, category=category) for category in range(100, 150)]
    write(tmp_path, [image(1), image(1)], bad, [*CATEGORIES, {"id": 7, "name": "again"}])
    error = problems_of(tmp_path)
    assert error.total == 52 and len(error.problems) == 20
    assert "category id 7 stands there twice" in str(error)
    assert "id 1 stands there twice" in str(error)
    assert "and 32 more" in str(error)


def test_a_data_error_survives_pickling(tmp_path: Path) -> None:
    """The message, the code and the count cross a process boundary."""
    error = problems_of(tmp_path)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.exit_code, copy.total) == (str(error), 66, 2)


def test_boxes_cannot_be_changed_by_accident(tmp_path: Path) -> None:
    """The table of boxes is read only, since every epoch starts from it."""
    write(tmp_path, [image(1)], [box(1, 0, 0, 9, 9)])
    boxes = CocoDataset.load(tmp_path, "train2017").boxes(0)
    with pytest.raises(ValueError, match="read-only"):
        boxes[0, 0] = 1
