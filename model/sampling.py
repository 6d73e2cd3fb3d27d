"""Which images a rank sees in which step, and at which size: pure functions, no state.

With ``seed`` 0 these are the ModelZoo trainer's own choices, index by index.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from model.data_error import DataError

_SIDE_SEED = 1234
_SIDE_KEYS = 1_000_000
_LARGEST_KEY = 1000


def share_size(images: int, world_size: int) -> int:
    """Return how many samples each rank sees an epoch; the last ones repeat the first."""
    return -(-images // world_size)


def steps_per_epoch(images: int, batch_size: int, world_size: int) -> int:
    """Return the full batches in a rank's share.

    Rounds as the sampler does. The original's schedule rounds down instead and can fall behind its
    own data, even to no step at all; here one number serves the data, the schedule and the log.
    """
    return share_size(images, world_size) // batch_size


def require_global_batch(images: int, batch_size: int, world_size: int, where: str) -> None:
    """Raise DataError (exit code 65) unless the data set fills one step of all ranks."""
    needed = batch_size * world_size
    if images < needed:
        raise DataError(where, [
            f"{images} training images, but one step of {world_size} ranks with per_batch_size "
            f"{batch_size} takes {needed}; lower per_batch_size or the number of ranks"
        ])  # fmt: skip


@lru_cache(maxsize=4)
def epoch_order(images: int, epoch: int, seed: int = 0) -> np.ndarray:
    """Return the order of all image positions (images,) in ``epoch``; read only."""
    state = np.random.RandomState(epoch if seed == 0 else [seed & 0xFFFFFFFF, epoch])
    order = state.permutation(images)
    order.flags.writeable = False
    return order


def rank_share(images: int, world_size: int, rank: int, epoch: int, seed: int = 0) -> np.ndarray:
    """Return the positions (share_size,) that one rank sees in ``epoch``: every R-th of the order.

    The order is continued from its start until it divides evenly, round and round if there are
    less than half as many images as ranks (where the original fails).
    """
    whole = slice(0, share_size(images, world_size))
    return _of_share(images, world_size, rank, epoch, seed, whole)


def step_positions(
    images: int, batch_size: int, world_size: int, rank: int, global_step: int, seed: int = 0
) -> np.ndarray:
    """Return the positions (batch_size,) of one rank's images in ``global_step`` (from 0)."""
    epoch, step = divmod(global_step, steps_per_epoch(images, batch_size, world_size))
    part = slice(step * batch_size, (step + 1) * batch_size)
    return _of_share(images, world_size, rank, epoch, seed, part)


def _of_share(
    images: int, world_size: int, rank: int, epoch: int, seed: int, part: slice
) -> np.ndarray:
    """Return a part of a rank's share, without making the rest of a large one."""
    places = rank + world_size * np.arange(part.start, part.stop)
    positions: np.ndarray = epoch_order(images, epoch, seed)[places % images]
    return positions


@lru_cache(maxsize=2)
def _side_keys(seed: int, count: int) -> tuple[int, ...]:
    generator = random.Random(seed)
    return tuple(generator.randint(1, _LARGEST_KEY) for _ in range(count))


@lru_cache(maxsize=_LARGEST_KEY)
def _side_of_key(key: int, sides: tuple[int, ...]) -> int:
    return random.Random(key).choice(sides)


def multi_scale_side(
    epoch: int, step: int, images: int, sides: Sequence[int], resize_rate: int = 1, seed: int = 0
) -> int:
    """Choose the input side of the ``step``-th batch of ``epoch``, the same on all ranks.

    ``resize_rate`` batches in a row share a side; ``images`` is the size of the whole data set.
    """
    position = (epoch * -(-images // resize_rate) + step // resize_rate) % _SIDE_KEYS
    # A prefix is enough: the whole list takes half a second, a small data set a few values of it.
    count = min(_SIDE_KEYS, max(1024, 1 << position.bit_length()))
    key = _side_keys(_SIDE_SEED + seed, count)[position]
    return _side_of_key(key, tuple(sides))
