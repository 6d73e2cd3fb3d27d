"""Confidence, suppression and mapping to the original image."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from model.architecture import HEADS, SMALL, STRIDES
from model.decode import DETECTION_COLUMNS, Decoder, candidates, detections, suppress

CATEGORIES = (1, 5, 7, 90)


def head(grid: int, *boxes: tuple[float, ...]) -> np.ndarray:
    """A decoded head of one image that holds `boxes` (x, y, w, h, objectness, class, p)."""
    decoded = np.zeros((1, grid, grid, 3, 9), np.float32)
    flat = decoded.reshape(-1, 9)
    for i, (x, y, w, h, objectness, category, probability) in enumerate(boxes):
        flat[i, :5] = x, y, w, h, objectness
        flat[i, 5 + int(category)] = probability
    return decoded


def detect(*heads: np.ndarray, size: tuple[int, int] = (200, 100)) -> np.ndarray:
    """Detections of one image with id 42."""
    return detections(heads, [42], [size], CATEGORIES)


def test_boxes_are_stretched_to_the_original_image() -> None:
    """A row holds image, category id, corner and size in original pixels, and the score."""
    (row,) = detect(head(2, (0.5, 0.5, 0.25, 0.5, 0.5, 3, 0.5)))
    assert row == pytest.approx([42, 90, 75, 25, 50, 50, 0.25])


def test_corner_and_size_are_limited_separately() -> None:
    """A box over the border starts at 0 and keeps its size up to the image's."""
    (row,) = detect(head(2, (0.1, 0.5, 0.6, 3.0, 0.5, 0, 0.5)))
    assert row[2:6] == pytest.approx([0, 0, 120, 100])


def test_boxes_below_the_confidence_are_dropped() -> None:
    """The product of objectness and class decides, and the threshold itself is enough."""
    heads = head(2, (0.5, 0.5, 0.1, 0.1, 0.5, 1, 0.0019), (0.2, 0.2, 0.1, 0.1, 0.0625, 1, 0.03125))
    assert len(detections([heads], [1], [(64, 64)], CATEGORIES, confidence=0.001953125)) == 1


def test_an_image_without_boxes_has_no_rows() -> None:
    """Nothing above the threshold, in one image or in all, is no error."""
    assert detect(head(2)).shape == (0, DETECTION_COLUMNS)
    both = np.concatenate([head(2), head(2, (0.5, 0.5, 0.1, 0.1, 0.9, 1, 0.9))])
    rows = detections([both], [8, 9], [(64, 64), (64, 64)], CATEGORIES)
    assert rows[:, 0].tolist() == [9]


def test_not_a_number_is_no_detection() -> None:
    """A network that has diverged gives no boxes rather than broken rows."""
    assert detect(np.full((1, 2, 2, 3, 9), np.nan, np.float32)).shape == (0, DETECTION_COLUMNS)


def test_only_the_best_class_of_a_box_counts() -> None:
    """A box that two classes fit is one detection."""
    decoded = head(2, (0.5, 0.5, 0.5, 0.5, 0.9, 1, 0.8))
    decoded.reshape(-1, 9)[0, 5 + 2] = 0.7
    assert detect(decoded)[:, 1].tolist() == [5]


def test_overlapping_boxes_of_one_class_leave_the_better_one() -> None:
    """Suppression works within a class, across heads, and not between classes."""
    better, worse = (0.5, 0.5, 0.5, 0.5, 0.9, 1, 0.9), (0.5, 0.5, 0.5, 0.48, 0.8, 1, 0.9)
    other = (0.5, 0.5, 0.5, 0.5, 0.8, 2, 0.9)
    rows = detect(head(2, worse), head(4, better, other))
    assert rows[:, 1].tolist() == [5, 7]
    assert rows[0, 6] == pytest.approx(0.81)


def test_overlap_counts_whole_pixels() -> None:
    """Sides are one longer than the difference of corners: 2 pixels shared of 4 are one half."""
    boxes = np.array([[0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    scores, classes = np.array([0.9, 0.8]), np.zeros(2, int)
    assert suppress(boxes, scores, classes, overlap=0.5).tolist() == [0, 1]
    assert suppress(boxes, scores, classes, overlap=0.49).tolist() == [0]


def test_equal_scores_keep_their_order() -> None:
    """Of two equal boxes the first stays, and rows of equal score are in the order given."""
    boxes = np.array([[0.0, 0, 9, 9], [50, 50, 9, 9], [0, 0, 9, 9], [80, 80, 9, 9]])
    assert suppress(boxes, np.full(4, 0.5), np.zeros(4, int)).tolist() == [0, 1, 3]


def slow_suppress(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, overlap: float
) -> list[int]:
    """The definition: a box stays if no better box of its class that stays overlaps it."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda k: (classes[k], -scores[k], k)):
        x, y, w, h = boxes[i]
        good = True
        for j in (j for j in kept if classes[j] == classes[i]):
            u, v, p, q = boxes[j]
            across = max(0.0, min(x + w, u + p) - max(x, u) + 1)
            down = max(0.0, min(y + h, v + q) - max(y, v) + 1)
            shared = across * down
            union = (w + 1) * (h + 1) + (p + 1) * (q + 1) - shared
            good = good and shared / union <= overlap
        if good:
            kept.append(i)
    return kept


@settings(max_examples=80, deadline=None)
@given(
    arrays.arrays(np.int64, st.tuples(st.integers(1, 25), st.just(6)), elements=st.integers(0, 12))
)
def test_suppression_equals_its_definition(numbers: np.ndarray) -> None:
    """The vectorised form keeps the same boxes in the same order as a loop over pairs."""
    boxes, scores, classes = numbers[:, :4] * 1.0, numbers[:, 4] / 12, numbers[:, 5] % 3
    fast = suppress(boxes, scores, classes, 0.5).tolist()
    assert fast == slow_suppress(boxes, scores, classes, 0.5)


def test_no_candidates_are_an_empty_result() -> None:
    """Suppressing nothing gives nothing."""
    boxes, scores, classes = candidates(np.zeros((12, 9), np.float32), (10, 10))
    assert suppress(boxes, scores, classes).shape == (0,)


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16])
def test_decoding_places_boxes_and_stays_in_float32(dtype: ms.Type) -> None:
    """A raw head of zeros is a box of its anchor's size in the middle of each cell."""
    ms.set_context(mode=ms.GRAPH_MODE)
    raws = [ms.Tensor(np.zeros((1, 27, 64 // STRIDES[h], 64 // STRIDES[h])), dtype) for h in HEADS]
    for name, decoded in zip(HEADS, Decoder(SMALL)(*raws), strict=True):
        assert decoded.dtype == ms.float32
        grid = 64 // STRIDES[name]
        values = decoded.asnumpy()
        assert values.shape == (1, grid, grid, 3, 9)
        row, column = grid - 1, 0
        assert values[0, row, column, :, 0] == pytest.approx(0.5 / grid)
        assert values[0, row, column, :, 1] == pytest.approx((row + 0.5) / grid)
        sizes = np.array(SMALL.head_anchors(name)) / 64
        assert values[0, row, column, :, 2:4] == pytest.approx(sizes)
        assert (values[..., 4:] == 0.5).all()
