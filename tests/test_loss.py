"""Behaviour of the loss: what is punished, what is not, and by how much."""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from model.architecture import HEADS, SMALL, STRIDES
from model.loss import PARTS, Background, DetectionLoss, LossTerms
from model.targets import Targets, make_targets, stack

SIDE = 64
BACKGROUND_LOGIT = -8.0
Evaluate = Callable[[list[np.ndarray], Targets], tuple[dict[str, float], list[np.ndarray]]]


class Terms(nn.Cell):
    """The four terms as one tensor, and their sum, for taking gradients of the latter."""

    def __init__(self) -> None:
        """Take the small network's loss."""
        super().__init__()
        self.terms = LossTerms(SMALL)

    def construct(self, raw_l, raw_m, raw_s, *targets):
        """Return the sum and the stacked terms."""
        terms, _ = self.terms((raw_l, raw_m, raw_s), targets[:3], targets[3:])
        return terms[0] + terms[1] + terms[2] + terms[3], ops.stack(terms)


@pytest.fixture(scope="module")
def evaluate() -> Evaluate:
    """Function from raw heads and a batch of targets to terms by name and gradients by head."""
    ms.set_context(mode=ms.GRAPH_MODE)
    function = ops.value_and_grad(Terms(), (0, 1, 2), has_aux=True)

    def call(raws: list[np.ndarray], targets: Targets) -> tuple[dict, list[np.ndarray]]:
        inputs = [Tensor(array) for array in (*raws, *targets.arrays())]
        (_, terms), gradients = function(*inputs)
        named = dict(zip(PARTS, terms.asnumpy().tolist(), strict=True))
        return named, [gradient.asnumpy() for gradient in gradients]

    return call


def batch(*images: list[tuple[float, ...]]) -> Targets:
    """Targets of a batch, from the boxes (x1, y1, x2, y2, class) of each image."""
    return stack([make_targets(np.array(b).reshape(-1, 5), SIDE, SMALL) for b in images])


def quiet_raws(images: int = 2) -> list[np.ndarray]:
    """Raw heads that predict boxes of the anchors' size and no object anywhere."""
    raws = []
    for head in HEADS:
        grid = SIDE // STRIDES[head]
        raw = np.zeros((images, 3, 9, grid, grid), np.float32)
        raw[:, :, 4:] = BACKGROUND_LOGIT
        raws.append(raw.reshape(images, 27, grid, grid))
    return raws


def attributes(raw: np.ndarray) -> np.ndarray:
    """A raw head or its gradient seen as (B, 3, 9, g, g), without a copy."""
    return raw.reshape(raw.shape[0], 3, 9, *raw.shape[2:])


OBJECT = [8, 8, 38, 69 - 8, 2]
"""A box of 30 by 53 pixels with its centre in row 2, column 1 of head m."""


def test_without_objects_only_objectness_is_left(evaluate: Evaluate) -> None:
    """Images without boxes are negatives: background alone is learned, and nothing is NaN."""
    raws = quiet_raws()
    terms, gradients = evaluate(raws, batch([], []))
    cells = sum(raw[0].size // 9 for raw in raws)
    assert terms["objectness"] == pytest.approx(
        cells * np.log1p(np.exp(BACKGROUND_LOGIT)), rel=1e-4
    )
    assert [terms[name] for name in ("xy", "wh", "classes")] == [0, 0, 0]
    for gradient in map(attributes, gradients):
        assert (gradient[:, :, 4] > 0).all()
        assert not np.delete(gradient, 4, axis=2).any()


def test_the_loss_is_a_mean_over_images(evaluate: Evaluate) -> None:
    """A batch of equal images costs what one of them costs, twice the objects twice as much."""
    raws = quiet_raws()
    one, _ = evaluate(raws, batch([OBJECT], []))
    two, _ = evaluate(raws, batch([OBJECT], [OBJECT]))
    for name in ("xy", "wh", "classes"):
        assert two[name] == pytest.approx(2 * one[name], rel=1e-5)


def test_boxes_and_classes_are_learned_on_responsible_cells_only(evaluate: Evaluate) -> None:
    """Box and class gradients are zero everywhere but in the cell and anchor of the object."""
    targets = batch([OBJECT], [])
    _, gradients = evaluate(quiet_raws(), targets)
    for head, gradient in zip(HEADS, map(attributes, gradients), strict=True):
        responsible = getattr(targets, f"y_true_{head}")[..., 4].transpose(0, 3, 1, 2) == 1
        others = np.delete(gradient, 4, axis=2).transpose(0, 1, 3, 4, 2)
        assert not others[~responsible].any()
        assert others[responsible].any() == responsible.any()


def test_a_right_prediction_costs_no_size_and_no_class(evaluate: Evaluate) -> None:
    """With the true log size and confident right classes, wh and classes vanish."""
    raws, targets = quiet_raws(), batch([OBJECT], [OBJECT])
    where = np.argwhere(targets.y_true_m[..., 4] == 1)
    for image, row, column, anchor in where:
        truth = targets.y_true_m[image, row, column, anchor]
        cell = attributes(raws[1])[image, anchor, :, row, column]
        cell[2:4] = np.log(truth[2:4] * SIDE / SMALL.head_anchors("m")[anchor])
        cell[5:] = np.where(truth[5:] == 1, 30, -30)
    terms, _ = evaluate(raws, targets)
    assert terms["wh"] == pytest.approx(0, abs=1e-9)
    assert terms["classes"] == pytest.approx(0, abs=1e-9)


def test_small_objects_weigh_more(evaluate: Evaluate) -> None:
    """The gradient of a size is (2 - area) times its error in log size."""
    raws, targets = quiet_raws(), batch([OBJECT], [])
    _, gradients = evaluate(raws, targets)
    image, row, column, anchor = np.argwhere(targets.y_true_m[..., 4] == 1)[0]
    truth = targets.y_true_m[image, row, column, anchor]
    error = -np.log(truth[2:4] * SIDE / SMALL.head_anchors("m")[anchor])
    expected = (2 - truth[2] * truth[3]) * error / len(raws[0])
    ours = attributes(gradients[1])[image, anchor, 2:4, row, column]
    assert ours == pytest.approx(expected, rel=1e-4)


def test_a_cell_that_overlaps_an_object_is_not_called_background(evaluate: Evaluate) -> None:
    """A good box that is not responsible is left alone; a little worse, it is background."""
    targets = batch([OBJECT], [])
    image, row, column, anchor = np.argwhere(targets.y_true_m[..., 4] == 1)[0]
    other = (anchor + 1) % 3
    truth, sizes = targets.y_true_m[image, row, column, anchor], SMALL.head_anchors("m")[other]
    offset = truth[:2] * (SIDE / 16) - (column, row)
    offset = np.clip(offset, 1e-3, 1 - 1e-3)
    for factor, punished in ((1.0, False), (0.72, False), (0.6, True)):
        raws = quiet_raws()
        cell = attributes(raws[1])[image, other, :, row, column]
        cell[:2] = np.log(offset / (1 - offset))
        cell[2:4] = np.log(truth[2:4] * SIDE * np.array([factor, 1.0]) / sizes)
        _, gradients = evaluate(raws, targets)
        gradient = attributes(gradients[1])[image, other, 4, row, column]
        assert bool(gradient) == punished, factor


def test_detection_loss_is_the_sum_of_its_terms(evaluate: Evaluate) -> None:
    """The scalar adds four terms over three heads; the shares tell each head and term."""
    rng = np.random.default_rng(0)
    raws = [raw + rng.normal(size=raw.shape).astype(np.float32) for raw in quiet_raws()]
    targets = batch([OBJECT, [0, 0, 20, 12, 1]], [[5, 5, 60, 60, 0]])
    terms, _ = evaluate(raws, targets)
    inputs = [Tensor(array) for array in (*raws, *targets.arrays())]
    loss, shares = DetectionLoss(SMALL)(*inputs)
    assert float(loss.asnumpy()) == pytest.approx(sum(terms.values()), rel=1e-5)
    np.testing.assert_allclose(shares.asnumpy().sum(axis=1), list(terms.values()), rtol=1e-5)
    for index, head in enumerate(HEADS):
        alone, _ = LossTerms(SMALL, (head,))(inputs[index : index + 1],
            inputs[3 + index : 4 + index], inputs[6 + index : 7 + index])  # fmt: skip
        found = [float(term.asnumpy()) for term in alone]
        np.testing.assert_allclose(shares.asnumpy()[:, index], found, rtol=1e-5)


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap of every box of `a` with every box of `b`, both (k, 4) as x, y, w, h."""
    low = np.maximum((a[:, :2] - a[:, 2:] / 2)[:, None], b[:, :2] - b[:, 2:] / 2)
    high = np.minimum((a[:, :2] + a[:, 2:] / 2)[:, None], b[:, :2] + b[:, 2:] / 2)
    shared = np.maximum(high - low, 0).prod(axis=2)
    return shared / (a[:, 2:].prod(axis=1)[:, None] + b[:, 2:].prod(axis=1) - shared)


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_background_is_an_overlap_below_the_threshold(threshold: float) -> None:
    """The form without division marks the boxes that the plain definition marks."""
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(7)
    grid = 4
    boxes = rng.uniform(0.2, 0.8, (2, 5, 4)).astype(np.float32)
    near = boxes[:, rng.integers(0, 3, 3 * grid * grid)] * grid
    near *= rng.uniform(0.7, 1.3, near.shape).astype(np.float32)
    predicted = near.reshape(2, 3, grid * grid, 4).transpose(0, 1, 3, 2).copy()
    boxes[:, 3:] = 0  # Padding.
    marked = Background(threshold)(
        Tensor(predicted[:, :, :2]), Tensor(predicted[:, :, 2:]), (Tensor(boxes),), (grid,)
    ).asnumpy()
    for i in range(2):
        flat = predicted[i].transpose(0, 2, 1).reshape(-1, 4)
        best = intersection_over_union(flat, boxes[i] * grid).max(axis=1)
        assert np.array_equal(marked[i].ravel() == 1, best < threshold)
        assert 0 < (best < threshold).sum() < best.size
