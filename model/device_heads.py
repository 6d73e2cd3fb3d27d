"""Heads that a device left in files: `<image>_0.bin`, `_1.bin`, `_2.bin` of the Ascend 310."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.architecture import ANCHORS_PER_HEAD, HEADS, STRIDES
from model.categories import CategoryTable
from model.data_error import EXIT_NOT_READABLE, DataError
from model.detector import UnusableHeads
from model.pictures import Picture


class DeviceHeads:
    """Decoded heads l, m, s of one image a time, float32 (g, g, 3, 5 + C) without a header.

    The shapes follow from the side of the input and the number of classes. A device names its
    files after the image, up to the first or to the last dot.
    """

    batch = 1

    def __init__(self, folder: Path, side: int, categories: CategoryTable) -> None:
        """Look whether `folder` is there; raises DataError."""
        if not folder.is_dir():
            problem = "no such directory; --result_path is the device's result_Files"
            raise DataError(str(folder), [problem], EXIT_NOT_READABLE)
        self.folder = folder
        self.categories = categories
        self.shapes = [
            (1, side // STRIDES[head], side // STRIDES[head], ANCHORS_PER_HEAD, 5 + len(categories))
            for head in HEADS
        ]

    def heads(self, pictures: list[Picture], _: list[np.ndarray]) -> list[np.ndarray]:
        """Read the three files of an image; raises UnusableHeads."""
        name = pictures[0].path.name
        stems = (pictures[0].path.stem, name.partition(".")[0])
        stem = next((s for s in stems if (self.folder / f"{s}_0.bin").is_file()), stems[0])
        heads = [
            self._read(self.folder / f"{stem}_{i}.bin", shape)
            for i, shape in enumerate(self.shapes)
        ]
        rest = np.concatenate([head[..., 4:].ravel() for head in heads])
        if not (np.isfinite(rest).all() and rest.min() >= 0.0 and rest.max() <= 1.0):
            raise UnusableHeads(
                f"{self.folder / stem}_*.bin: no probabilities where boxes should have them; "
                "export the network with --keep_detect=true"
            )
        return heads

    def _read(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        try:
            values = np.fromfile(path, np.float32)
            size = path.stat().st_size
        except OSError as error:
            raise UnusableHeads(f"{path}: {error.strerror or error}") from error
        needed = 4 * int(np.prod(shape))
        if size != needed:
            raise UnusableHeads(
                f"{path}: {size} bytes, {shape[-1] - 5} classes on a {shape[1]}x{shape[1]} grid "
                f"need {needed}; set --testing_shape and --num_classes to the network's"
            )
        return values.reshape(shape)
