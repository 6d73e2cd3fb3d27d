"""Anchors from the sizes of boxes: what the search must find, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import anchors as module
from model.anchors import (
    best_overlaps,
    box_sizes,
    by_area,
    find_anchors,
    head_shares,
    mean_iou,
    refine,
    whole_anchors,
)
from model.architecture import DEFAULT_ANCHORS
from model.coco import CocoDataset
from model.data_report import main
from model.targets import best_anchors

PIXELS = st.integers(2, 600)
SIZES = st.lists(st.tuples(PIXELS, PIXELS), min_size=12, max_size=60).filter(
    lambda rows: len(set(rows)) >= 3
)
FEW = settings(max_examples=40, deadline=None)


@FEW
@given(SIZES, st.randoms(use_true_random=False))
def test_the_order_of_boxes_does_not_matter(sizes: list[Any], random: Any) -> None:
    """The same boxes in any order give the same anchors to the last bit."""
    shuffled = random.sample(sizes, len(sizes))
    found = find_anchors(np.array(sizes), 3)
    np.testing.assert_array_equal(found, find_anchors(np.array(shuffled), 3))


@FEW
@given(SIZES)
def test_anchors_are_sorted_and_lie_among_the_boxes(sizes: list[Any]) -> None:
    """Areas rise, and no anchor is wider or higher than every box, or than none."""
    found, boxes = find_anchors(np.array(sizes), 3), np.array(sizes)
    assert (np.diff(found.prod(axis=1)) >= 0).all()
    assert (found >= boxes.min(axis=0)).all() and (found <= boxes.max(axis=0)).all()


@FEW
@given(SIZES)
def test_twice_the_input_gives_twice_the_anchors(sizes: list[Any]) -> None:
    """IoU knows no unit: all sizes doubled double every anchor."""
    boxes = np.array(sizes, np.float64)
    np.testing.assert_array_equal(find_anchors(2 * boxes, 3), 2 * find_anchors(boxes, 3))


@FEW
@given(st.sets(st.tuples(PIXELS, PIXELS), min_size=1, max_size=9), st.integers(1, 5))
def test_as_many_sizes_as_anchors_are_found_exactly(kinds: set[Any], times: int) -> None:
    """k different sizes, however often each occurs, are the k anchors, with an IoU of 1."""
    boxes = np.array(sorted(kinds) * times, np.float64)
    found = find_anchors(boxes, len(kinds))
    np.testing.assert_array_equal(found, by_area(np.array(sorted(kinds), np.float64)))
    assert mean_iou(boxes, found) == 1


@pytest.mark.parametrize("seed", range(20))
def test_no_single_exchange_for_a_box_is_much_better(seed: int) -> None:
    """Putting one anchor onto any one of the boxes gains little: the search is near an optimum."""
    boxes = np.exp(np.random.default_rng(seed).normal(4, 0.8, (60, 2))).clip(2)
    found = find_anchors(boxes, 5)
    reached = mean_iou(boxes, found)
    others = (
        np.concatenate([np.delete(found, place, axis=0), box[None]])
        for place in range(len(found))
        for box in boxes
    )
    assert max(mean_iou(boxes, other) for other in others) < reached + 0.02


@FEW
@given(st.tuples(PIXELS, PIXELS), st.lists(st.tuples(PIXELS, PIXELS), min_size=1, max_size=9))
def test_overlap_is_that_of_drawn_boxes(size: tuple[int, int], anchors: list[Any]) -> None:
    """The IoU equals a count of pixels of two boxes with one corner."""

    def drawn(width: int, height: int) -> np.ndarray:
        picture = np.zeros((600, 600), bool)
        picture[:height, :width] = True
        return picture

    ious = [
        (drawn(*size) & drawn(*anchor)).sum() / (drawn(*size) | drawn(*anchor)).sum()
        for anchor in anchors
    ]
    best, iou = best_overlaps(np.array([size], np.float64), np.array(anchors, np.float64))
    assert iou[0] == pytest.approx(max(ious)) and ious[best[0]] == pytest.approx(max(ious))


def test_boxes_go_to_the_anchor_that_training_gives_them() -> None:
    """The best anchor here is that of the targets, over several blocks of boxes."""
    sizes = np.random.default_rng(1).uniform(2, 416, (module._BLOCK + 10, 2))
    anchors = np.array(DEFAULT_ANCHORS, np.float64)
    best, _ = best_overlaps(sizes, anchors)
    np.testing.assert_array_equal(best, best_anchors(sizes, anchors))
    shares = head_shares(sizes, anchors)
    assert [share.head for share in shares] == ["l", "m", "s"]
    assert [share.boxes for share in shares] == [int((best // 3 == n).sum()) for n in (2, 1, 0)]


def test_a_large_set_is_searched_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more boxes than a sample holds, anchors are as good, and the same every time."""
    sizes = np.exp(np.random.default_rng(2).normal(4, 0.8, (6000, 2))).clip(2)
    whole = mean_iou(sizes, find_anchors(sizes, 9))
    monkeypatch.setattr(module, "_SAMPLE", 1000)
    found = find_anchors(sizes, 9)
    assert mean_iou(sizes, found) > whole - 0.005
    np.testing.assert_array_equal(found, find_anchors(sizes[::-1], 9))
    rare = np.array([[10, 10]] * 5000 + [[20, 20], [40, 40]])
    np.testing.assert_array_equal(find_anchors(rare, 3), [[10, 10], [20, 20], [40, 40]])


def test_the_seed_is_what_chance_depends_on() -> None:
    """Another seed may find others; the better of many starts is kept."""
    sizes = np.random.default_rng(3).uniform(2, 416, (400, 2))
    first, again, other = (find_anchors(sizes, 9, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    single = refine(np.round(sizes * 1024) / 1024, sizes[:9])[1]
    assert mean_iou(sizes, first) > single


def test_a_lonely_centre_moves_to_the_box_that_fits_worst() -> None:
    """A centre without boxes is not lost and gives no NaN."""
    sizes = np.array([[10.0, 10], [12, 12], [300, 300]])
    found, iou = refine(sizes, np.array([[11.0, 11], [0.001, 0.001]]))
    assert [300, 300] in found.tolist() and iou > 0.88


@pytest.mark.parametrize(("sizes", "count"), [([[5, 5]] * 20 + [[7, 7]], 3), (np.zeros((0, 2)), 1)])
def test_fewer_sizes_than_anchors_are_an_error(sizes: Any, count: int) -> None:
    """The message has both numbers."""
    with pytest.raises(ValueError, match=rf"\d different box sizes are fewer than {count} anchors"):
        find_anchors(np.array(sizes, np.float64), count)


def test_whole_anchors_are_at_least_a_pixel_and_in_order() -> None:
    """Rounding keeps the order of areas."""
    rounded = whole_anchors(np.array([[0.2, 0.3], [1.4, 9.6], [3.4, 4.4], [3.6, 3.6]]))
    assert rounded.tolist() == [[1, 1], [1, 10], [3, 4], [4, 4]]


# -- the command ---------------------------------------------------------------------------------


def write_set(root: Path, boxes: list[dict[str, Any]]) -> Path:
    """A data set of one image of 200 x 100 pixels for every annotation."""
    for folder in ("train2017", "annotations"):
        (root / folder).mkdir(parents=True)
    images = []
    for number, box in enumerate(boxes, 1):
        box.update(image_id=number, category_id=1, id=number)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 200, "height": 100})
        (root / "train2017" / f"{number}.jpg").touch()
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve sizes, a crowd, a box of half a pixel, one thin as a hair, one that sticks out."""
    boxes: list[dict[str, Any]] = [{"bbox": [0, 0, 10 * n, 5 * n]} for n in range(1, 12)]
    boxes += [{"bbox": [190, 0, 60, 50]}]  # 10 x 50 of it are in the image
    boxes += [{"bbox": [0, 0, 50, 50], "iscrowd": 1}, {"bbox": [0, 0, 0.5, 0.5]}]
    boxes += [{"bbox": [0, 0, 50, 0.2]}]
    return write_set(tmp_path / "set", boxes)


def test_sizes_are_those_of_the_stretched_square(data: Path) -> None:
    """Width and height are stretched apart, cut off at the image, crowds and hairs left out."""
    dataset = CocoDataset.load(data, "train2017")
    sizes = box_sizes(dataset, 416)
    expected = [(416 * n / 20, 416 * n / 20) for n in range(1, 12)] + [(20.8, 208)]
    np.testing.assert_allclose(sizes, expected)


def test_the_command_prints_an_argument_of_the_trainer(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line can be handed to the trainer; the others say what was used and how it fits."""
    from model.arguments import parse

    assert main(["anchors", str(data), "--seed=3"]) == 0
    out = capsys.readouterr()
    lines = out.out.splitlines()
    assert out.err == ""
    assert len(parse([lines[-1]]).anchors) == 9
    assert "12 boxes of 13 images" in lines[0]
    assert "1 crowd boxes, 0 boxes not larger than a pixel, 2 images" in lines[1]
    assert "default" in lines[2] and [line[:6] for line in lines[3:6]] == [
        "head s", "head m", "head l",
    ]  # fmt: skip


def test_json_holds_the_same_for_programs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The document's figures can be computed again from its anchors."""
    assert main(["anchors", str(data), "--json", "--side=320", "--count=9"]) == 0
    found = json.loads(capsys.readouterr().out)
    sizes = box_sizes(CocoDataset.load(data, "train2017"), 320)
    assert found["mean_iou"] == pytest.approx(mean_iou(sizes, found["anchors"]), abs=1e-6)
    defaults = mean_iou(sizes, np.array(DEFAULT_ANCHORS))
    assert found["default_mean_iou"] == pytest.approx(defaults, abs=1e-6)
    assert sum(head["boxes"] for head in found["heads"]) == found["boxes"] == 12
    assert (found["format"], found["side"], len(found["exact"])) == (1, 320, 9)


def test_another_number_of_anchors_says_that_the_trainer_takes_nine(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five can be looked at, but not per head."""
    assert main(["anchors", str(data), "--count", "5"]) == 0
    out = capsys.readouterr().out
    assert "the trainer takes 9 anchors, these are 5" in out and "head s" not in out


def test_wrong_values_are_named_together(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every mistake in one message, and exit code 64."""
    wrong = ["--count=0", "--side=100", "--seed=x", "--split=test"]
    assert main(["anchors", str(data), *wrong]) == 64
    message = capsys.readouterr().err
    assert all(text in message for text in wrong) and len(message.splitlines()) == 4


def test_data_that_cannot_do_has_the_code_of_its_kind(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """66 for a folder that is not there; 65 for too few sizes, which the message counts."""
    assert main(["anchors", str(tmp_path / "none")]) == 66
    assert main(["anchors", str(data), "--count=13"]) == 65
    assert "12 different box sizes are fewer than 13 anchors; lower --count" in (
        capsys.readouterr().err
    )
    crowd = write_set(tmp_path / "crowd", [{"bbox": [0, 0, 9, 9], "iscrowd": 1}])
    assert main(["anchors", str(crowd)]) == 65
    assert "no box is larger than a pixel" in capsys.readouterr().err
