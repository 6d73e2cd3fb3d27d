"""Assignment of boxes to cells and anchors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.architecture import FULL, HEADS, SMALL, STRIDES, Architecture
from model.targets import FIRST_ANCHOR, MAX_BOXES, Targets, best_anchors, make_targets, stack

SIDE = 320


def box(
    x: float, y: float, w: float, h: float, category: int = 0
) -> tuple[float, float, float, float, int]:
    """A box by its corner and size."""
    return (x, y, x + w, y + h, category)


BOXES = st.lists(
    st.builds(
        box,
        st.integers(0, SIDE - 2),
        st.integers(0, SIDE - 2),
        st.integers(1, SIDE),
        st.integers(1, SIDE),
        st.integers(0, SMALL.num_classes - 1),
    ).map(lambda b: (b[0], b[1], min(b[2], SIDE), min(b[3], SIDE), b[4])),
    max_size=12,
)


def rows(boxes: list[tuple]) -> np.ndarray:
    """Boxes as an array, an empty one too."""
    return np.array(boxes, np.float32).reshape(-1, 5)


def occupied(targets: Targets) -> int:
    """Number of cells and anchors that hold an object."""
    return sum(int(getattr(targets, f"y_true_{head}")[..., 4].sum()) for head in HEADS)


def test_image_without_boxes_gives_all_zero_targets() -> None:
    """No object: every cell is background and the ground truth is all padding."""
    targets = make_targets(rows([]), SIDE, SMALL)
    for head in HEADS:
        grid = SIDE // STRIDES[head]
        assert getattr(targets, f"y_true_{head}").shape == (grid, grid, 3, 9)
        assert getattr(targets, f"gt_{head}").shape == (MAX_BOXES, 4)
    assert not any(array.any() for array in targets.arrays())
    assert all(array.dtype == np.float32 for array in targets.arrays())


@settings(max_examples=60, deadline=None)
@given(BOXES)
def test_ground_truth_lists_what_the_cells_hold(boxes: list[tuple]) -> None:
    """Each head's padded boxes are exactly the boxes in its occupied cells, in their order."""
    targets = make_targets(rows(boxes), SIDE, SMALL)
    assert occupied(targets) <= len(boxes)
    assert (occupied(targets) > 0) == bool(boxes)
    for head in HEADS:
        truth, padded = getattr(targets, f"y_true_{head}"), getattr(targets, f"gt_{head}")
        held = truth[truth[..., 4] == 1][:, :4]
        assert np.array_equal(padded[: len(held)], held)
        assert not padded[len(held) :].any()


@settings(max_examples=60, deadline=None)
@given(BOXES, st.floats(0, 0.5))
def test_cells_without_an_object_hold_nothing(boxes: list[tuple], smooth: float) -> None:
    """Everything but an occupied cell and anchor is zero; an occupied one has a class."""
    targets = make_targets(rows(boxes), SIDE, SMALL, label_smooth=smooth)
    for head in HEADS:
        truth = getattr(targets, f"y_true_{head}")
        free = truth[..., 4] == 0
        assert not truth[free].any()
        assert (truth[~free][:, 5:].max(axis=1) >= 0.5).all()


@settings(max_examples=40, deadline=None)
@given(BOXES, st.data())
def test_padding_rows_change_nothing(boxes: list[tuple], data: st.DataObject) -> None:
    """Rows of zeros may stand anywhere between the boxes."""
    padded = list(boxes)
    for _ in range(3):
        padded.insert(data.draw(st.integers(0, len(padded))), (0, 0, 0, 0, 0))
    ours, plain = (make_targets(rows(b), SIDE, SMALL) for b in (padded, boxes))
    assert all(map(np.array_equal, ours.arrays(), plain.arrays()))


@pytest.mark.parametrize("index", range(9))
def test_a_box_of_an_anchors_shape_goes_to_that_anchor(index: int) -> None:
    """Shape decides head and anchor, the floored centre decides the cell."""
    w, h = FULL.anchors[index]
    targets = make_targets(rows([box(17, 33, w, h, 7)]), 416, FULL)
    head = next(h for h in HEADS if FIRST_ANCHOR[h] <= index < FIRST_ANCHOR[h] + 3)
    truth = getattr(targets, f"y_true_{head}")
    (where,) = np.argwhere(truth[..., 4] == 1)
    centre = np.floor([17 + w / 2, 33 + h / 2])
    assert where.tolist() == [
        centre[1] // STRIDES[head], centre[0] // STRIDES[head], index - FIRST_ANCHOR[head]
    ]  # fmt: skip
    assert truth[tuple(where)][:4] == pytest.approx([*(centre / 416), w / 416, h / 416])
    assert np.flatnonzero(truth[tuple(where)][5:]).tolist() == [7]


def test_a_later_box_takes_the_cell_and_classes_accumulate() -> None:
    """The overwritten box leaves the ground truth, its class stays (as in the original)."""
    targets = make_targets(rows([box(100, 100, 30, 61, 1), box(101, 101, 30, 60, 3)]), SIDE, SMALL)
    cell = targets.y_true_m[targets.y_true_m[..., 4] == 1]
    assert cell[:, 5:].tolist() == [[0, 1, 0, 1]]
    assert cell[0, 3] == np.float32(60 / SIDE)
    assert (targets.gt_m.any(axis=1)).sum() == 1


def test_smoothed_classes_are_reset_by_a_later_box() -> None:
    """With smoothing the later class alone is left, and the targets sum to one."""
    boxes = rows([box(100, 100, 30, 61, 1), box(101, 101, 30, 60, 3)])
    targets = make_targets(boxes, SIDE, SMALL, label_smooth=0.3)
    cell = targets.y_true_m[targets.y_true_m[..., 4] == 1]
    assert cell[0, 5:] == pytest.approx([0.1, 0.1, 0.1, 0.7])


def test_a_single_class_has_nothing_to_smooth() -> None:
    """With one class the target stays 1 instead of dividing by zero."""
    one = Architecture(num_classes=1)
    targets = make_targets(rows([box(0, 0, 50, 50)]), SIDE, one, label_smooth=0.1)
    assert {v for head in HEADS for v in getattr(targets, f"y_true_{head}")[..., 5].flat} == {0, 1}


def test_a_centre_on_the_far_edge_belongs_to_the_last_cell() -> None:
    """A centre at the side itself is not outside the grid."""
    targets = make_targets(rows([(SIDE - 10, SIDE - 10, SIDE + 10, SIDE + 10, 0)]), SIDE, SMALL)
    assert targets.y_true_s[-1, -1, :, 4].sum() == 1


@pytest.mark.parametrize("side", [0, -32, 100, 321])
def test_unusable_sides_are_refused(side: int) -> None:
    """A side that 32 does not divide is an error that names it."""
    with pytest.raises(ValueError, match=str(side)):
        make_targets(rows([]), side, SMALL)


def test_unknown_classes_are_refused() -> None:
    """A class beyond num_classes is an error, not a write elsewhere."""
    with pytest.raises(ValueError, match="num_classes is 4"):
        make_targets(rows([box(0, 0, 9, 9, 4)]), SIDE, SMALL)


def test_too_many_boxes_are_refused() -> None:
    """More boxes than rows of padding is an error that names the limit."""
    with pytest.raises(ValueError, match="max_boxes = 2"):
        make_targets(rows([box(i, i, 9, 9) for i in range(3)]), SIDE, SMALL, max_boxes=2)


def test_the_input_is_left_as_it_was() -> None:
    """Making targets does not write into the boxes."""
    boxes = rows([box(10, 20, 30, 40, 2)])
    before = boxes.copy()
    make_targets(boxes, SIDE, SMALL)
    assert np.array_equal(boxes, before)


def test_stacking_keeps_images_in_order() -> None:
    """Targets of a batch are those of its images along a new first axis."""
    images = [make_targets(rows([box(x, x, 40, 40)]), SIDE, SMALL) for x in (0, 150)]
    batch = stack(images)
    for together, first, second in zip(
        batch.arrays(), images[0].arrays(), images[1].arrays(), strict=True
    ):
        assert np.array_equal(together, np.stack([first, second]))


def test_best_anchor_depends_on_the_shape_alone() -> None:
    """A box equal to an anchor overlaps it fully, whatever its place in the list."""
    anchors = np.array(FULL.anchors)
    assert best_anchors(anchors, anchors).tolist() == list(range(9))
    assert best_anchors(np.zeros((0, 2)), anchors).shape == (0,)
