"""The request to stop: all ranks stop after the same step, whenever it rings."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator import stop_request
from tests.support_core import until


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


RANK = """
import sys, time
from pathlib import Path
from orchestrator.stop_request import Listener
ear = Listener(Path(sys.argv[1]), answers=False)
ear.heed_sigterm()
print("up", flush=True)
time.sleep(600)
"""


def rank_at(path: Path, program: str = RANK) -> subprocess.Popen[bytes]:
    """A process that listens."""
    command = [sys.executable, "-c", program, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_sigterm_from_outside_is_a_request(tmp_path: Path) -> None:
    """It asks all ranks, whichever got it, and ends nobody; a second one ends who gets it."""
    path = tmp_path / "001.stop"
    stop_request.place(path)
    process = rank_at(path)
    try:
        process.send_signal(signal.SIGTERM)
        until(lambda: stop_request.asked(path), "the request")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


def test_sigterm_to_every_rank_is_one_request(tmp_path: Path) -> None:
    """As of a whole node: nobody dies of what the others have asked already."""
    path = tmp_path / "001.stop"
    stop_request.place(path)
    both = [rank_at(path), rank_at(path)]
    try:
        for process in both:
            process.send_signal(signal.SIGTERM)
        until(lambda: stop_request.asked(path), "the request")
        with pytest.raises(subprocess.TimeoutExpired):
            both[1].wait(0.3)
        assert [process.poll() for process in both] == [None, None]
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_a_dismissed_gang_dies_of_sigterm_at_once(tmp_path: Path) -> None:
    """Our own stop waits for no step; what had been asked before is still known."""
    path = tmp_path / "001.stop"
    stop_request.place(path)
    stop_request.ask(path)
    process = rank_at(path)
    try:
        stop_request.dismiss(path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
        assert stop_request.asked(path)
    finally:
        process.kill()
        process.communicate()


def test_a_script_that_handles_sigterm_itself_keeps_its_way(tmp_path: Path) -> None:
    """Its handler stays, and nothing is asked."""
    path = tmp_path / "001.stop"
    stop_request.place(path)
    own = RANK.replace("ear =", "import signal; signal.signal(15, lambda *_: sys.exit(7))\near =")
    process = rank_at(path, own)
    try:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 7
        assert not stop_request.asked(path)
    finally:
        process.kill()
        process.communicate()
