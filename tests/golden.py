"""Compare our network, loss, data path and evaluation with recorded vectors of the original.

    python -m tests.golden DIRECTORY [--full]

checks a directory of the form described in its README (`network.npz`, `network.json`, `loss.npz`,
`training.npz`, `training.json`, `evaluation.npz`, `evaluation_gt.json`; items that are not there
are passed over), prints the largest difference of each item beside its tolerance and ends with 1
if one is past it.
Differences are `max|a - b| / max|b|` unless the item says otherwise. `--full` adds the network of
108 million parameters (3 GB of memory).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from model.architecture import FULL, HEADS, SMALL, Architecture
from model.decode import detections
from model.loss import LossTerms
from model.targets import Targets, make_targets, stack
from tests.golden_network import (
    TARGET_NAMES,
    check_initialisation,
    check_network,
)
from tests.golden_training import (
    check_augmentation,
    check_colour,
    check_figures,
    check_learning_rates,
    check_multi_scale,
    check_resize,
    check_sampler,
)
from tests.golden_vectors import EXACT, FORWARD, Difference, Golden, distance


class HeadLoss(nn.Cell):
    """Loss of one head of the small network."""

    def __init__(self, head: str) -> None:
        """Take head `l`, `m` or `s`."""
        super().__init__()
        self.terms = LossTerms(SMALL, (head,))

    def construct(self, raw: Tensor, y_true: Tensor, boxes: Tensor) -> Tensor:
        """Return the sum of the four terms."""
        (xy, wh, objectness, classes), _ = self.terms((raw,), (y_true,), (boxes,))
        return xy + wh + objectness + classes


def check_loss(golden: Golden) -> Iterator[Difference]:
    """Loss and gradient of each head by itself."""
    arrays = golden.arrays("loss.npz")
    for head in HEADS:
        inputs = [Tensor(arrays[f"{kind}_{head}"]) for kind in ("raw", "y_true", "gt")]
        loss, gradient = ops.value_and_grad(HeadLoss(head))(*inputs)
        yield Difference(f"loss_{head}", distance(loss.asnumpy(), arrays[f"loss_{head}"]), FORWARD)
        value = distance(gradient.asnumpy(), arrays[f"gradient_{head}"])
        yield Difference(f"gradient_{head}", value, FORWARD)


def check_targets(golden: Golden) -> Iterator[Difference]:
    """Targets of recorded boxes, with and without label smoothing."""
    arrays = golden.arrays("training.npz", "targets/")
    for case in sorted({name.split("/")[0] for name in arrays}):
        boxes, side = arrays[f"{case}/boxes_xyxy_class"], int(arrays[f"{case}/input_hw"][0])
        for smooth in (0, 1):
            targets = make_targets(boxes, side, FULL, label_smooth=0.1 * smooth)
            prefix = f"{case}/smooth{smooth}/"
            expected = _dense_targets(arrays, prefix, targets)
            value = max(map(distance, targets.arrays(), expected))
            yield Difference(f"targets/{case}, smooth {smooth}", value, EXACT)


def _dense_targets(
    arrays: Mapping[str, np.ndarray], prefix: str, like: Targets
) -> list[np.ndarray]:
    truths = []
    for head in HEADS:
        truth = np.zeros_like(getattr(like, f"y_true_{head}"))
        cells = arrays[f"{prefix}y_true_{head}/cells_yxa"]
        truth[tuple(cells.T)] = arrays[f"{prefix}y_true_{head}/values"]
        truths.append(truth)
    return [*truths, *(arrays[f"{prefix}gt_{head}"] for head in HEADS)]


def check_batch_targets(golden: Golden) -> Iterator[Difference]:
    """Targets of the batches that network and loss were recorded on."""
    cases: list[tuple[str, str, Architecture]] = [
        ("network.npz", "small/", SMALL), ("network.npz", "full/", FULL), ("loss.npz", "", SMALL)
    ]  # fmt: skip
    for file, prefix, architecture in cases:
        arrays = golden.arrays(file, prefix)
        if "boxes_xyxy_class" not in arrays:
            continue
        side = 32 * arrays["y_true_l"].shape[1]
        ours = stack([make_targets(b, side, architecture) for b in arrays["boxes_xyxy_class"]])
        value = max(map(distance, ours.arrays(), (arrays[name] for name in TARGET_NAMES)))
        yield Difference(f"targets of {file} {prefix}", value, EXACT)


def check_detections(golden: Golden) -> Iterator[Difference]:
    """Detections of the decoded heads, whatever the order of rows."""
    arrays = golden.arrays("evaluation.npz")
    ours = detections(
        [arrays[f"detect_{head}"] for head in ("s", "m", "l")],
        arrays["image_id"],
        arrays["image_wh"],
        golden.category_ids,
    )
    recorded = arrays["detections"]
    recorded = recorded[np.isin(recorded[:, 0], arrays["image_id"])]
    yield Difference("detections", distance(_ordered(ours), _ordered(recorded)), EXACT)


def _ordered(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort((rows[:, 2], -rows[:, 6], rows[:, 1], rows[:, 0]))]


@dataclass(frozen=True)
class Check:
    """A group of items: which files it needs, and whether it needs `--full`."""

    run: Callable[[Golden], Iterator[Difference]]
    files: tuple[str, ...]
    full: bool = False


TRAINING = ("training.npz", "training.json")
EVALUATION = ("evaluation.npz", "evaluation_gt.json")

CHECKS: dict[str, Check] = {
    "targets": Check(check_targets, ("training.npz",)),
    "batch-targets": Check(check_batch_targets, ("network.npz", "loss.npz")),
    "lr": Check(check_learning_rates, TRAINING),
    "sampler": Check(check_sampler, TRAINING),
    "multi-scale": Check(check_multi_scale, TRAINING),
    "resize": Check(check_resize, TRAINING),
    "colour": Check(check_colour, TRAINING),
    "augmentation": Check(check_augmentation, TRAINING),
    "detections": Check(check_detections, EVALUATION),
    "coco-figures": Check(check_figures, EVALUATION),
    "loss": Check(check_loss, ("loss.npz",)),
    "small": Check(lambda golden: check_network(golden, "small"), ("network.npz", "network.json")),
    "full": Check(
        lambda golden: check_network(golden, "full"), ("network.npz", "network.json"), full=True
    ),
    "initialisation": Check(check_initialisation, ("network.json",), full=True),
}


def compare(directory: Path, names: Sequence[str]) -> Iterator[Difference]:
    """Run the named checks on `directory`, those whose files are there."""
    ms.set_context(mode=ms.GRAPH_MODE)
    golden = Golden(directory)
    for name in names:
        if all(golden.has(file) for file in CHECKS[name].files):
            yield from CHECKS[name].run(golden)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a directory; return 1 if an item is past its tolerance or nothing was compared."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--full", action="store_true", help="also the network of full size")
    parser.add_argument("--only", choices=sorted(CHECKS), action="append", help="repeatable")
    options = parser.parse_args(arguments)
    names = options.only or [n for n, check in CHECKS.items() if options.full or not check.full]
    bad = compared = 0
    for difference in compare(options.directory, names):
        compared += 1
        bad += not difference.good
        mark = "ok " if difference.good else "BAD"
        line = f"{mark} {difference.value:9.2e} <= {difference.tolerance:.0e}  {difference.item}"
        print(line, flush=True)
    print(f"{compared} items compared, {bad} past their tolerance")
    return int(bad > 0 or compared == 0)


if __name__ == "__main__":
    sys.exit(main())
