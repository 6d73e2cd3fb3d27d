"""The order of images, a rank's share of it, and the side of multi-scale training.

`test_golden` compares them with recorded ones.
"""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data_error import DataError
from model.sampling import (
    epoch_order,
    multi_scale_side,
    rank_share,
    require_global_batch,
    share_size,
    step_positions,
    steps_per_epoch,
)

SIDES = tuple(range(320, 609, 32))

quick = settings(deadline=None, max_examples=40)
sizes = st.integers(1, 400)
worlds = st.integers(1, 16)


@quick
@given(sizes, worlds, st.integers(0, 50), st.integers(0, 2**40))
def test_the_shares_of_all_ranks_cover_the_data_set(
    size: int, world: int, epoch: int, seed: int
) -> None:
    """Every image is seen, all shares are equally long, and no image is seen twice too often."""
    shares = [rank_share(size, world, rank, epoch, seed) for rank in range(world)]
    assert {len(share) for share in shares} == {share_size(size, world)}
    counts = np.bincount(np.concatenate(shares), minlength=size)
    assert counts.min() >= 1 and counts.max() - counts.min() <= 1


@quick
@given(st.integers(1, 20), st.integers(40, 64), st.integers(0, 5))
def test_fewer_images_than_half_the_ranks_are_cycled(size: int, world: int, epoch: int) -> None:
    """Where the original fails, the order goes round and round."""
    seen = [int(rank_share(size, world, rank, epoch)[0]) for rank in range(world)]
    order = epoch_order(size, epoch).tolist()
    assert seen == (order * world)[:world]


@quick
@given(sizes, worlds, st.integers(1, 8), st.integers(0, 3))
def test_the_steps_of_an_epoch_follow_the_share_without_a_gap(
    size: int, world: int, batch: int, epoch: int
) -> None:
    """A rank's steps are consecutive pieces of its share; what fills no batch is dropped."""
    steps = steps_per_epoch(size, batch, world)
    rank = world - 1
    seen = [
        step_positions(size, batch, world, rank, epoch * steps + step, 3) for step in range(steps)
    ]
    share = rank_share(size, world, rank, epoch, 3)
    assert np.concatenate([*seen, []]).tolist() == share[: steps * batch].tolist()
    assert len(share) - steps * batch < batch


@quick
@given(sizes, worlds, st.integers(1, 32))
def test_a_global_batch_is_required(size: int, world: int, batch: int) -> None:
    """A data set smaller than one step of all ranks is refused, and any other has a step."""
    if size >= world * batch:
        require_global_batch(size, batch, world, "here")
        assert steps_per_epoch(size, batch, world) >= 1
    else:
        with pytest.raises(DataError, match="lower per_batch_size") as caught:
            require_global_batch(size, batch, world, "here")
        assert caught.value.exit_code == 65


def test_seeds_and_epochs_give_other_orders() -> None:
    """Order differs by epoch and by seed, and global random state plays no part."""
    np.random.seed(1)
    random.seed(1)
    first = epoch_order(100, 0).copy()
    np.random.seed(2)
    random.seed(2)
    epoch_order.cache_clear()
    assert (epoch_order(100, 0) == first).all()
    assert (epoch_order(100, 1) != first).any()
    assert (epoch_order(100, 0, 5) != first).any()


@quick
@given(st.integers(0, 400), st.integers(0, 3000), st.integers(1, 2000), st.integers(1, 20))
def test_a_side_lasts_for_resize_rate_batches(epoch: int, step: int, size: int, rate: int) -> None:
    """All batches of one group share a side, which is one of those allowed."""
    group = step - step % rate
    sides = {multi_scale_side(epoch, group + i, size, SIDES, rate) for i in range(rate)}
    assert len(sides) == 1 and sides <= set(SIDES)


def test_every_side_occurs_and_another_seed_changes_them() -> None:
    """No side is left out over an epoch; the seed enters."""
    chosen = [multi_scale_side(0, step, 1000, SIDES) for step in range(500)]
    assert set(chosen) == set(SIDES)
    assert chosen != [multi_scale_side(0, step, 1000, SIDES, seed=1) for step in range(500)]
