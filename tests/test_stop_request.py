"""The request to stop: all ranks stop after the same step, whenever it rings."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from orchestrator import stop_request


def listeners(path: Path, ranks: int) -> list[stop_request.Listener]:
    """An ear for every rank."""
    return [stop_request.Listener(path, answers=rank == 0) for rank in range(ranks)]


def test_without_a_request_nobody_stops(tmp_path: Path) -> None:
    """Before anybody asks, and without a record or outside muster, every step goes on."""
    path = tmp_path / "001.stop"
    stop_request.place(path)
    for ear in (*listeners(path, 2), *listeners(tmp_path / "none", 1)):
        assert not any(ear.stops_after(step) for step in range(1, 50))
    assert not stop_request.Listener(None, answers=True).stops_after(1)


@pytest.mark.parametrize("seed", range(20))
def test_all_ranks_stop_after_the_same_step(tmp_path: Path, seed: int) -> None:
    """Ranks that wait for each other in every step leave together, whenever they are asked."""
    path, ranks, steps = tmp_path / "001.stop", 4, 400
    stop_request.place(path)
    chance = random.Random(seed)
    at = chance.randrange(1, 300)
    step_done = threading.Barrier(ranks)
    left: dict[int, int] = {}

    def train(rank: int) -> None:
        ear = stop_request.Listener(path, answers=rank == 0)
        for step in range(1, steps):
            step_done.wait(10)  # as an all-reduce: nobody finishes a step before all have begun it
            if rank == 1 and step == at:
                stop_request.ask(path)
            if ear.stops_after(step):
                left[rank] = step
                return

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(left) == ranks
    assert len(set(left.values())) == 1
    assert at <= left[0] <= at + 4


def test_only_rank_0_names_the_step(tmp_path: Path) -> None:
    """Another rank that sees the request first goes on until rank 0 has spoken."""
    path = tmp_path / "001.stop"
    stop_request.place(path)
    first, second = listeners(path, 2)
    stop_request.ask(path)
    assert not second.stops_after(7)
    assert not first.stops_after(7)
    assert not second.stops_after(8)
    assert first.stops_after(9)
    assert second.stops_after(9)
