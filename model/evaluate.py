"""Evaluate a checkpoint: `python -m model.evaluate --data_dir=... --pretrained=...`.

`--pretrained` is a checkpoint file (of this trainer or the original) or a step directory. Every
image of val2017 counts once, the last ones of a partial batch too; the result is the same from
run to run.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model import backend as backends
from model.arguments import parse
from model.config import Config, ConfigError
from model.config_report import show_help
from model.data_error import DataError
from model.journal import LOGGER, start_log
from orchestrator.rank import Rank

if TYPE_CHECKING:
    from model.coco import CategoryTable, CocoDataset
    from model.coco_eval import CocoFigures
    from model.decode import DetectionNetwork

FIGURES = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """The twelve figures, and the detections (n, 7) that they were computed from."""

    figures: CocoFigures
    detections: np.ndarray
    seconds: float


class Detector:
    """The network that finds the objects of a data set: built and compiled once, loaded often."""

    def __init__(self, config: Config, dataset: CocoDataset) -> None:
        """Note what is to be done; the network is made when it is first needed."""
        self.config = config
        self.dataset = dataset

    @property
    def batches(self) -> int:
        """How many batches the data set makes."""
        return math.ceil(len(self.dataset) / self._batch_size)

    def detect(self, checkpoint: Path, first: int = 0, every: int = 1) -> np.ndarray:
        """Rows (n, 7) of `model.decode.DETECTION_COLUMNS` for the images of some batches.

        Those are the batches `first`, `first + every`, and so on: whole ones, as an image's
        detections depend on its batch. Rows are in the order of the images, which is that of their
        ids. Raises ConfigError for a checkpoint that does not fit.
        """
        from mindspore import Tensor

        from model.decode import DETECTION_COLUMNS, detections
        from model.restore import load_weights

        load_weights(checkpoint, self._network.yolo_network)
        found = [np.zeros((0, DETECTION_COLUMNS))]
        sizes = self.config.testing_side, self._batch_size
        for positions, images in batches(self.dataset, *sizes, first=first, every=every):
            heads = self._network(Tensor.from_numpy(images))
            chosen = [self.dataset.images[position] for position in positions]
            found.append(
                detections(
                    [head.asnumpy()[: len(positions)] for head in heads],
                    [image.id for image in chosen],
                    [(image.width, image.height) for image in chosen],
                    self.dataset.categories.ids,
                    confidence=self.config.eval_ignore_threshold,
                    overlap=self.config.nms_thresh,
                )
            )
        return np.concatenate(found)

    def measure(self, rows: np.ndarray, since: float) -> Evaluation:
        """Compare the detections (n, 7) of all images with the annotations.

        `since` is when the evaluation began (monotonic s).
        """
        from model.coco_eval import evaluate_detections

        figures = evaluate_detections(self.dataset.annotation_file, rows, self.dataset.image_ids)
        return Evaluation(figures, rows, time.monotonic() - since)

    @property
    def _batch_size(self) -> int:
        # A batch is never larger than the data set.
        return min(self.config.per_batch_size, len(self.dataset))

    @cached_property
    def _network(self) -> DetectionNetwork:
        from model.decode import Decoder, DetectionNetwork
        from model.yolo import YoloV3

        config = self.config
        architecture = config.architecture(config.classes(len(self.dataset.categories)))
        return DetectionNetwork(YoloV3(architecture), Decoder(architecture))


def evaluate(config: Config, checkpoint: Path) -> Evaluation:
    """Detect the objects of val2017 and measure against its annotations.

    Raises ConfigError for a checkpoint that does not fit, DataError for the data.
    """
    since = time.monotonic()
    detector = Detector(config, load_held_out(config, checkpoint))
    return detector.measure(detector.detect(checkpoint), since)


def load_held_out(config: Config, checkpoint: Path) -> CocoDataset:
    """Read val2017, its classes in the order the checkpoint was trained with.

    Without a table beside the checkpoint (a file of the original), the order of the data is used.
    """
    from model.coco import CategoryTable
    from model.restore import category_table

    rows = category_table(checkpoint)
    return held_out(config, CategoryTable.from_json(rows) if rows else None)


def held_out(
    config: Config, categories: CategoryTable | None, *, may_miss_images: bool = False
) -> CocoDataset:
    """Read val2017 for a network of these `categories`; None: those of the data.

    A missing image is a mistake, unless images may be missing: then it counts as one in which
    nothing was found.
    """
    from model.coco import CocoDataset

    return CocoDataset.load(
        config.data_dir,
        "val2017",
        categories=categories,
        annotation_file=config.annFile or None,
        may_miss_images=may_miss_images,
    )


def batches(
    dataset: CocoDataset, side: int, size: int, *, first: int = 0, every: int = 1
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (positions, images (size, 3, side, side) float32) over the whole data set.

    A batch is never larger than the data set. The last one is filled up with its own images
    again, so that one graph serves all; only the first `len(positions)` count. `first` and
    `every` choose batches by their number, from 0: an iterator's share of the work.
    """
    from model.image_file import Flaw, load_image
    from model.transforms import evaluation_input

    size = min(size, len(dataset))
    for begin in range(first * size, len(dataset), every * size):
        positions: list[int] = []
        images = np.zeros((size, 3, side, side), np.float32)
        for position in range(begin, min(begin + size, len(dataset))):
            loaded = load_image(dataset.images[position])
            if isinstance(loaded, Flaw):
                # Its objects count as missed; hours of training are not lost to one file.
                LOGGER.warning("%s; it counts as an image without detections", loaded.message)
                continue
            images[len(positions)] = evaluation_input(loaded, side)
            positions.append(position)
        if positions:
            # The stem normalises by the batch, at inference too: empty slots would be seen there.
            for slot in range(len(positions), size):
                images[slot] = images[slot % len(positions)]
            yield positions, images


def write_results(result: Evaluation, folder: Path) -> Path:
    """Write `predict_<time>.json` and the figures into `folder`; returns the former."""
    from model.coco_eval import write_figures, write_predictions
    from model.curves import write_curves

    write_figures(folder / FIGURES, result.figures)
    if result.figures.curves is not None:
        try:
            write_curves(folder, result.figures.curves)
        except Exception as error:  # whatever a drawing library may stumble over
            LOGGER.warning("precision over recall was not drawn: %r", error)
    return write_predictions(folder, result.detections)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 64 for arguments, 65 or 66 for data."""
    show_help(__doc__, arguments)
    rank = Rank.from_env()
    try:
        run(parse(sys.argv[1:] if arguments is None else arguments), rank)
    except (ConfigError, DataError) as error:
        if rank.active:
            raise
        print(error, file=sys.stderr)
        return error.exit_code
    rank.done()
    return 0


def run(config: Config, rank: Rank) -> Evaluation:
    """Evaluate `config.pretrained`, print the table and leave the results.

    Without it, what the rank is told to start from: the checkpoint of the run that it follows.
    """
    weights = config.pretrained or (rank.resume_from or "")
    if not weights:
        raise ConfigError(["--pretrained: give the checkpoint to evaluate"])
    log = start_log()
    rank.phase("init")
    backends.prepare(backends.choose(config, rank), config.device_id)
    rank.phase("evaluate")
    result = evaluate(config, Path(weights))
    base = (rank.run_dir or Path.cwd()) / config.log_path
    folder = base / time.strftime("%Y-%m-%d_time_%H_%M_%S")
    log.info("result file path: %s", write_results(result, folder))
    log.info("\n%s", result.figures.table())
    if result.figures.curves is not None:
        log.info("\n%s", result.figures.curves.table())
    log.info("testing cost time %.2f h", result.seconds / 3600)
    rank.report("evaluation", result.figures.table())
    return result


if __name__ == "__main__":
    sys.exit(main())
