"""The parts together can learn: one batch, seen again and again, is learned by heart."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from model.architecture import HEADS
from model.arguments import parse
from model.coco import CocoDataset
from model.data import Batch, TrainingData
from model.decode import Decoder, DetectionNetwork, detections
from model.loss import DetectionLoss
from model.rehearsal_data import Recipe, make
from model.step import build_step
from model.training_network import TrainingNetwork
from model.transforms import AugmentationSettings
from model.yolo import YoloV3

SIDE = 64
STEPS = 100
CONFIG = parse([
    "--res2net_block=1,1,1,1", "--res2net_in_channels=16,32,32,64",
    "--res2net_out_channels=32,32,64,128", "--backbone_shape=16,16,32,64,128",
    "--freeze_backbone=0", "--backbone_bn=batch",
    "--anchor_scales=6,6,9,9,13,13,18,18,24,24,30,30,38,38,46,46,56,56",
    "--per_batch_size=4", "--lr=0.01",
])  # fmt: skip
LEFT_OF_LOSS = 0.001
SURE = 0.5
MATCH = 0.7


@dataclass(frozen=True)
class Memorised:
    """The batch, the loss of every step, and what the network then detects in the batch."""

    batch: Batch
    losses: list[float]
    rows: np.ndarray


@pytest.fixture(scope="module")
def memorised(tmp_path_factory: pytest.TempPathFactory) -> Memorised:
    """A small network after many steps on one augmented batch."""
    ms.set_context(mode=ms.GRAPH_MODE)
    folder = tmp_path_factory.mktemp("overfit") / "shapes"
    make(folder, Recipe(images=4, val_images=1, seed=1, size=SIDE))
    dataset = CocoDataset.load(folder, "train2017")
    architecture = CONFIG.architecture(len(dataset.categories))
    data = TrainingData(
        dataset, batch_size=4, side_or_sides=SIDE, architecture=architecture, seed=1,
        augmentation=AugmentationSettings(CONFIG.max_box),
    )  # fmt: skip
    batch = data.batch(0)
    yolo = YoloV3(architecture, CONFIG.seed)
    step = build_step(TrainingNetwork(yolo, DetectionLoss(architecture)), CONFIG, 1, "cpu")
    losses = [step.train(batch.inputs, CONFIG.lr).loss for _ in range(STEPS)]
    heads = DetectionNetwork(yolo, Decoder(architecture))(Tensor(batch.images))
    rows = detections(
        [head.asnumpy() for head in heads],
        range(len(batch.images)), [(SIDE, SIDE)] * len(batch.images),
        range(architecture.num_classes), confidence=SURE,
    )  # fmt: skip
    return Memorised(batch, losses, rows)


def objects(batch: Batch) -> list[tuple[int, int, np.ndarray]]:
    """Image, class and box (x, y, w, h in pixels) of every object that the batch teaches."""
    found = []
    for head in HEADS:
        truth = getattr(batch, f"y_true_{head}")
        for place in np.argwhere(truth[..., 4] == 1.0):
            cell = truth[tuple(place)]
            corner = cell[:2] - cell[2:4] / 2
            box = np.concatenate([corner, cell[2:4]]) * SIDE
            found.append((int(place[0]), int(np.argmax(cell[5:])), box))
    return found


def least_loss(batch: Batch) -> float:
    """What no network can avoid: the cross entropy of an offset with itself, for want of 0 or 1."""
    total = 0.0
    for head in HEADS:
        truth = getattr(batch, f"y_true_{head}").astype(np.float64)
        grid = truth.shape[1]
        cells = truth[truth[..., 4] == 1.0]
        offset = np.clip(cells[:, :2] * grid % 1.0, 1e-12, 1 - 1e-12)
        entropy = -(offset * np.log(offset) + (1 - offset) * np.log(1 - offset))
        total += float(((2 - cells[:, 2] * cells[:, 3]) * entropy.sum(axis=1)).sum())
    return total / len(batch.images)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x, y, w, h."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[:2] + a[2:], b[:2] + b[2:])
    shared = np.maximum(high - low, 0).prod()
    return float(shared / (a[2:].prod() + b[2:].prod() - shared))


def test_the_loss_of_one_batch_goes_to_nearly_nothing(memorised: Memorised) -> None:
    """After 100 steps a thousandth of the first loss is left at most, beyond the unavoidable."""
    beyond = memorised.losses[-1] - least_loss(memorised.batch)
    assert 0.0 < beyond < LEFT_OF_LOSS * memorised.losses[0]


def test_what_was_learned_by_heart_is_detected(memorised: Memorised) -> None:
    """In inference every object has one sure box of its class, and there is no other sure box."""
    taught = objects(memorised.batch)
    assert len(memorised.rows) == len(taught) >= len(memorised.batch.images)
    for image, kind, box in taught:
        same = [row for row in memorised.rows if (row[0], row[1]) == (image, kind)]
        assert max((overlap(row[2:6], box) for row in same), default=0.0) >= MATCH
