"""Recorded vectors of the original trainer: where they are read and how they are compared."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

FORWARD, GRADIENT, AFTER_ONE, LATER, EXACT = 1e-4, 3e-2, 1e-3, 5e-2, 1e-6
"""Tolerances; the README of the vectors says where they come from."""


@dataclass(frozen=True)
class Difference:
    """One compared item and how far it is from the recorded one."""

    item: str
    value: float
    tolerance: float

    @property
    def good(self) -> bool:
        """Whether the difference is within its tolerance (NaN is not)."""
        return self.value <= self.tolerance


class Golden:
    """A directory of recorded vectors; files are read when first asked for."""

    def __init__(self, directory: Path) -> None:
        """Read from `directory`."""
        self.directory = directory

    def has(self, name: str) -> bool:
        """Whether the directory holds file `name`."""
        return (self.directory / name).is_file()

    def arrays(self, name: str, prefix: str = "") -> dict[str, np.ndarray]:
        """The arrays of an NPZ file whose names start with `prefix`, which is cut off."""
        with np.load(self.directory / name) as file:
            return {
                key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)
            }

    @cached_property
    def network(self) -> dict[str, Any]:
        """Content of network.json."""
        return json.loads((self.directory / "network.json").read_text())

    @cached_property
    def training(self) -> dict[str, Any]:
        """Content of training.json."""
        return json.loads((self.directory / "training.json").read_text())

    @cached_property
    def truth(self) -> dict[str, Any]:
        """Content of evaluation_gt.json."""
        return json.loads((self.directory / "evaluation_gt.json").read_text())

    @property
    def category_ids(self) -> list[int]:
        """Category ids of the evaluation's ground truth, in its order."""
        return [category["id"] for category in self.truth["categories"]]


RECORDED = Path(__file__).resolve().parents[2] / "shared" / "golden"
SUBSET = Path(__file__).parent / "golden_data"
GOLDEN = Golden(RECORDED if (RECORDED / "network.npz").is_file() else SUBSET)
"""What tests compare with: all vectors where they are, else the subset in the repository."""


def distance(ours: Any, recorded: Any) -> float:
    """`max|a - b| / max|b|`; infinite if shapes differ, absolute if `recorded` is all zero."""
    ours, recorded = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
    if ours.shape != recorded.shape:
        return float("inf")
    if not recorded.size:
        return 0.0
    largest = np.abs(recorded).max()
    return float(np.abs(ours - recorded).max() / (largest if largest > 0 else 1.0))


def deterministic_value(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """Value of a parameter, made of its name and shape alone (README, "Deterministic parameters").

    `name` is without the prefix of training checkpoints.
    """
    state = np.random.RandomState((zlib.crc32(name.encode()) + seed) & 0xFFFFFFFF)
    a = state.standard_normal(tuple(shape))
    if name.endswith("bn3.gamma"):
        value = 0.2 * (1 + 0.1 * a)
    elif name.endswith("gamma"):
        value = 1 + 0.1 * a
    elif name.endswith(("beta", "bias", "moving_mean")):
        value = 0.1 * a
    elif name.endswith("moving_variance"):
        value = 1 + 0.1 * np.abs(a)
    else:
        value = a * np.sqrt(2 / np.prod(shape[1:]))
        value = 0.3 * value if name.endswith("conv6.weight") else value
    return value.astype(np.float32)
