"""Running a network over images: from a checkpoint or a MindIR to rows of detections."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from model.architecture import Architecture
from model.categories import CategoryTable
from model.config import Config
from model.decode import DETECTION_COLUMNS, Decoder, DetectionNetwork, detections
from model.exported import Exported, ModelFileError, described_by, read_description
from model.options import categories_without_table, first_line
from model.pictures import Picture, Skipped, in_batches
from model.restore import category_table, load_weights
from model.transforms import evaluation_input
from model.yolo import YoloV3

Network = Callable[[np.ndarray], list[np.ndarray]]
"""Images (B, 3, S, S) float32 to decoded heads (B, g, g, 3, 5 + C)."""


class UnusableHeads(Exception):
    """There are no heads for one image; the others may have some."""


class Heads(Protocol):
    """What gives decoded heads for a batch of images: a network, or files of a device."""

    batch: int
    categories: CategoryTable

    def heads(self, pictures: list[Picture], pixels: list[np.ndarray]) -> list[np.ndarray]:
        """Return (B, g, g, 3, 5 + C) float32 each; raises UnusableHeads."""


@dataclass(frozen=True)
class Detector:
    """A network that runs batches of one size, on square inputs of one side in pixels."""

    network: Network
    batch: int
    side: int
    categories: CategoryTable

    def warm_up(self) -> float:
        """Compile by a first run on zeros; returns the seconds that it took."""
        since = time.monotonic()
        self.network(np.zeros((self.batch, 3, self.side, self.side), np.float32))
        return time.monotonic() - since

    def heads(self, _: list[Picture], pixels: list[np.ndarray]) -> list[np.ndarray]:
        """Decoded heads of up to `batch` images (H, W, 3) uint8 RGB.

        A partial batch is filled up with its own images: the stem normalises by what it sees, as
        the original's does, and zeros would change the others' results.
        """
        inputs = [evaluation_input(image, self.side) for image in pixels]
        filled = np.stack([inputs[i % len(inputs)] for i in range(self.batch)])
        return [head[: len(pixels)] for head in self.network(filled)]


@dataclass
class Found:
    """Detections (n, 7), the (width, height) of images by id, files passed over, seconds."""

    rows: np.ndarray
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0


def detect(
    pictures: Sequence[Picture],
    source: Heads,
    *,
    confidence: float,
    overlap: float,
    look: Callable[[Picture, np.ndarray, np.ndarray], None] | None = None,
) -> Found:
    """Detect the objects of all pictures; `look` sees each picture, its pixels and its rows."""
    found = Found(np.zeros((0, DETECTION_COLUMNS)))
    parts = [found.rows]
    since = time.monotonic()
    for batch, pixels in in_batches(pictures, source.batch, found.skipped):
        try:
            heads = source.heads(batch, pixels)
        except UnusableHeads as error:
            found.skipped += [Skipped(picture.path, str(error)) for picture in batch]
            continue
        sizes = [(image.shape[1], image.shape[0]) for image in pixels]
        ids = [picture.id for picture in batch]
        rows = detections(
            heads, ids, sizes, source.categories.ids, confidence=confidence, overlap=overlap
        )
        found.sizes.update(zip(ids, sizes, strict=True))
        parts.append(rows)
        if look is not None:
            for picture, image in zip(batch, pixels, strict=True):
                look(picture, image, rows[rows[:, 0] == picture.id])
    found.seconds = time.monotonic() - since
    found.rows = np.concatenate(parts)
    return found


def open_checkpoint(
    file: Path, config: Config, *, decoded: bool = True
) -> tuple[nn.Cell, Exported]:
    """The inference network of a checkpoint, and what it is.

    Raises ConfigError for a checkpoint that does not fit, DataError for `annFile`.
    """
    rows = category_table(file)
    categories = (
        CategoryTable.from_json(rows) if rows else categories_without_table(config, str(file))
    )
    architecture = config.architecture(config.classes(len(categories)))
    yolo = YoloV3(architecture)
    load_weights(file, yolo)
    yolo.set_train(False)
    about = replace(described_by(config, categories), decoded=decoded)
    return (DetectionNetwork(yolo, Decoder(architecture)) if decoded else yolo), about


def run_cell(cell: Callable[..., tuple[Tensor, ...]]) -> Network:
    """A MindSpore cell as a function of arrays."""
    return lambda images: [head.asnumpy() for head in cell(Tensor.from_numpy(images))]


def checkpoint_detector(file: Path, config: Config) -> Detector:
    """A detector of a checkpoint, ours or the original's."""
    network, about = open_checkpoint(file, config)
    return Detector(run_cell(network), about.batch, about.side, about.categories)


def mindir_detector(file: Path, config: Config) -> Detector:
    """A detector of a MindIR, which is run as a graph of its own.

    Without a description beside it, `config` says side, batch, classes and whether it decodes.
    Raises ModelFileError, ConfigError, DataError.
    """
    about = read_description(file)
    if about is None:
        about = described_by(config, categories_without_table(config, str(file)))
    if about.file_format != "MINDIR":
        problem = f"{file}: {about.file_format}; only a MindIR can be run here"
        raise ModelFileError([problem])
    network = _checked(run_cell(load_graph(file)), file, about)
    return Detector(network, about.batch, about.side, about.categories)


def load_graph(file: Path) -> nn.GraphCell:
    """Load a MindIR; raises ModelFileError."""
    if file.suffix != ".mindir":
        raise ModelFileError([f"{file}: the name of a MindIR ends in .mindir"])
    try:
        return nn.GraphCell(ms.load(str(file)))
    except (RuntimeError, ValueError, TypeError) as error:
        problem = f"{file}: is no whole MindIR ({first_line(error)}); copy it anew or export again"
        raise ModelFileError([problem]) from error


def _checked(network: Network, file: Path, about: Exported) -> Network:
    """`network`, its outputs compared with `about` and decoded if they are not yet."""
    try:
        architecture = Architecture(num_classes=len(about.categories), anchors=about.anchors)
    except ValueError as error:
        raise ModelFileError([f"{file}.json: {error}; export again"]) from error
    decode = Decoder(architecture)

    def run(images: np.ndarray) -> list[np.ndarray]:
        try:
            heads = network(images)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _misfit(file, about, first_line(error)) from error
        channels = [head.shape[-1 if about.decoded else 1] for head in heads]
        wanted = architecture.attributes if about.decoded else architecture.out_channel
        dimensions = 5 if about.decoded else 4
        if channels != [wanted] * 3 or any(head.ndim != dimensions for head in heads):
            raise _misfit(file, about, f"its outputs are {[head.shape for head in heads]}")
        if about.decoded:
            return heads
        return [head.asnumpy() for head in decode(*map(Tensor.from_numpy, heads))]

    return run


def _misfit(file: Path, about: Exported, reason: str) -> ModelFileError:
    what = "boxes" if about.decoded else "raw heads"
    return ModelFileError(
        [f"{file}: does not take {about.batch} images of {about.side} pixels or does not give "
         f"{what} of {len(about.categories)} classes: {reason}; keep the .json that "
         "model.export wrote beside it, or set --batch_size, --testing_shape, --num_classes, "
         "--keep_detect"]
    )  # fmt: skip
