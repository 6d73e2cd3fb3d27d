"""Stragglers: who is slower than its peers, why, and for how long; and what processes need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.device import DeviceKind
from orchestrator.effort import Effort, Meter
from orchestrator.heartbeat import Heartbeat
from orchestrator.launch import ProcessPlan
from orchestrator.lookout import Lookout
from orchestrator.stragglers import (
    COMPUTES,
    PATIENCE,
    UNKNOWN,
    News,
    Point,
    Slow,
    Stragglers,
    Stretch,
    between,
    compare,
    joined,
)
from tests.runs import end, poll, worker_job
from tests.support_core import training

STEP = Stretch(
    seconds=1.0, steps=1, cpu=0.5, queued=0.0, throttled=0.0, stopped=0.0, waited=0.1
)  # fmt: skip

LOCKSTEP = [
    ("CPU contention", {"queued": 0.5, "cpu": 0.5}),
    ("throttled", {"queued": 0.5, "throttled": 0.4}),
    ("stopped", {"stopped": 0.5}),
    ("waits for its data", {"waited": 0.9}),
    (COMPUTES, {"cpu": 1.4}),
]


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize(("reason", "needs"), LOCKSTEP, ids=[name for name, _ in LOCKSTEP])
def test_in_lockstep_who_needs_more_is_slow(
    ranks: int, reason: str, needs: dict[str, float]
) -> None:
    """Though all steps take the same time; the reason is what it needs more of."""
    windows = {rank: joined([STEP] * 30) for rank in range(ranks)}
    windows[1] = joined([replace(STEP, **needs)] * 30)
    found = compare(windows)
    expected = replace(STEP, **needs).own / STEP.own
    assert found[1].factor == pytest.approx(expected, abs=0.01)
    assert reason in found[1].reason
    assert all(slow.factor == 1.0 for rank, slow in found.items() if rank != 1)


def test_without_lockstep_the_steps_themselves_differ() -> None:
    """Whatever takes the time, be it on a device where nobody sees it."""
    windows = {rank: joined([STEP] * 30) for rank in range(3)}
    windows[2] = joined([replace(STEP, seconds=2.5)] * 30)
    found = compare(windows)
    assert (found[2].factor, found[2].reason) == (2.5, UNKNOWN)
    assert found[0].factor == found[1].factor == 1.0


def test_a_rank_that_mostly_waits_for_others_is_not_slow() -> None:
    """Twice as much of nearly nothing holds nobody up."""
    little = replace(STEP, cpu=0.05, waited=0.0)
    windows = {rank: joined([little] * 30) for rank in range(3)}
    windows[0] = joined([replace(little, cpu=0.4)] * 30)
    assert all(slow.factor <= 1.0 for slow in compare(windows).values())


def test_one_rank_has_no_peers() -> None:
    """There is nothing to compare it with."""
    assert compare({0: joined([STEP] * 30)}) == {}


stretches = st.builds(
    Stretch,
    seconds=st.floats(0.001, 100),
    steps=st.integers(1, 50),
    **{name: st.floats(0, 100) for name in ("cpu", "queued", "throttled", "stopped", "waited")},
)


@given(st.lists(stretches, min_size=2, max_size=9))
def test_comparing_is_fair(ranks: list[Stretch]) -> None:
    """Factors are finite and positive, do not depend on the order, and equal ranks are equal."""
    found = compare(dict(enumerate(ranks)))
    assert all(0 <= slow.factor < 1e15 for slow in found.values())
    turned = compare(dict(enumerate(reversed(ranks))))
    assert [found[i] for i in found] == [turned[len(ranks) - 1 - i] for i in found]
    for i, one in enumerate(ranks):
        for j, other in enumerate(ranks):
            assert one != other or found[i] == found[j]


@given(stretches, st.integers(2, 8))
def test_equal_ranks_are_no_stragglers(one: Stretch, ranks: int) -> None:
    """However long they all take."""
    assert {slow.factor for slow in compare(dict.fromkeys(range(ranks), one)).values()} <= {1.0}


class Story:
    """A gang in lockstep, a step each half second, looked at every two seconds."""

    def __init__(self, ranks: int = 4, factor: float | None = 1.5) -> None:
        self.watch = Stragglers(range(ranks), factor)
        self.cpu = dict.fromkeys(range(ranks), 0.0)
        self.at = 0.0
        self.news: list[tuple[float, News]] = []

    def train(self, seconds: float, **more: float) -> None:
        """Time passes; rank `r1=0.8` needs so much more than a third of it."""
        for _ in range(int(seconds / 2)):
            self.at += 2.0
            for rank in self.cpu:
                self.cpu[rank] += 2.0 * (0.33 + more.get(f"r{rank}", 0.0))
                self.tell(rank, training(int(self.at * 2), self.at))
            self.news += [(self.at, one) for one in self.watch.look()]

    def tell(self, rank: int, beat: Heartbeat) -> None:
        """One look at one rank."""
        self.watch.beat(rank, beat)
        self.watch.effort(rank, self.at, Effort(cpu=self.cpu[rank]), beat)


def test_a_straggler_is_told_once_and_once_when_it_is_over() -> None:
    """With how long it was slow; nothing in between, and nothing of its peers."""
    story = Story()
    story.train(60)
    story.train(80, r2=0.6)
    story.train(60)
    (begun, first), (ended, last) = story.news
    assert (first.rank, first.over, last.rank, last.over) == (2, False, 2, True)
    assert 60 + PATIENCE <= begun <= 60 + PATIENCE + 12
    assert 140 < ended <= 152
    assert first.slow.reason == COMPUTES
    assert last.seconds == pytest.approx(ended - begun + first.seconds)


def test_who_takes_over_knows_who_was_slow() -> None:
    """What a killed controller had told is not told again, but its end is."""
    story = Story()
    story.watch.restore({2: Slow(2.0, COMPUTES)})
    story.train(60, r2=0.6)
    assert story.news == []
    story.train(40)
    ((_, news),) = story.news
    assert (news.rank, news.over) == (2, True)


def test_a_hiccup_is_no_straggler() -> None:
    """Twenty seconds of it, now and then, are what a shared machine does."""
    story = Story()
    for _ in range(5):
        story.train(20, r1=0.9)
        story.train(20)
    assert story.news == []


def test_nobody_is_told_of_where_nobody_asked() -> None:
    """Without `health.straggler` slow ranks are no news."""
    story = Story(factor=None)
    story.train(120, r1=0.9)
    assert story.news == []


def test_a_few_slow_steps_are_not_enough() -> None:
    """Twenty of them must have been seen, however long they take."""
    watch = Stragglers(range(3), 1.5)
    for step in range(1, 20):
        at = step * 60.0
        for rank in range(3):
            beat = training(step, at)
            watch.effort(rank, at, Effort(cpu=at * (1 + rank)), beat)
        assert watch.look() == []


def test_what_is_not_training_does_not_count() -> None:
    """Rank 0 writes checkpoints while its peers wait: that is its work and not its slowness."""
    story = Story(ranks=2)
    for _ in range(30):
        story.train(4)
        story.cpu[0] += 30.0
        story.at += 30.0
        for rank in story.cpu:
            story.tell(rank, training(int(story.at * 2), story.at, phase_at=story.at))
    assert story.news == []


def test_a_stretch_needs_the_same_training_at_both_ends() -> None:
    """Another phase in between, or a point before the first step, makes none."""
    early = Point(0.0, 5, 0.0, Effort(cpu=1.0, queued=2.0), 0.0)
    late = Point(2.0, 9, 0.0, Effort(cpu=2.0, queued=1.0), 0.5)
    assert between(early, late) == Stretch(2.0, 4, 1.0, 0.0, 0.0, 0.0, 0.5)
    assert between(early, replace(late, trains_since=1.0)) is None
    assert between(early, replace(late, trains_since=None)) is None
    assert between(replace(early, trains_since=None), late) is None


BUSY = "while True: pass"


def busy(*cpus: int) -> subprocess.Popen[bytes]:
    """A process that computes all the time, on these CPUs."""
    return subprocess.Popen(
        [sys.executable, "-S", "-c", BUSY], preexec_fn=lambda: os.sched_setaffinity(0, cpus)
    )


def test_a_meter_tells_computing_from_waiting_for_a_cpu() -> None:
    """Two processes on one CPU: each has its half, and stands in line for the other's."""
    cpu = min(os.sched_getaffinity(0))
    first, second = busy(cpu), busy(cpu)
    try:
        meter = Meter(first.pid)

        def enough() -> bool:
            effort = meter.read()
            return effort is not None and effort.cpu > 0.2 and effort.queued > 0.2

        poll(enough, 60, "a share of the CPU, and a time in line")
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    assert meter.read() is None


def test_a_lookout_counts_the_time_for_which_a_process_is_stopped(tmp_path: Path) -> None:
    """And tells what it needs seldom, and only of ranks that are to be measured."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    plan = ProcessPlan(
        rank=0, module=None, arguments=(), argv=(), environment={}, workdir="", log="/none",
        cpus=(), heartbeat=None, error_file=None, start="spawn",
    )  # fmt: skip
    try:
        began = time.monotonic()
        watched = Lookout(replace(plan, measured=True), 1, process.pid, began)
        other = Lookout(plan, 1, process.pid, began)
        process.send_signal(signal.SIGSTOP)
        told = []

        def look() -> bool:
            told.extend(one for one in watched.look() if one["event"] == "effort")
            assert not [one for one in other.look() if one["event"] == "effort"]
            return bool(told)

        poll(look, 60, "what it needed")
        assert told[0]["effort"]["stopped"] > 1.0
        assert told[0]["at"] - began >= 2.0
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_slow_rank_is_found_in_a_real_run(tmp_path: Path) -> None:
    """It waits for its data in every step while its peers wait for it; later it does not."""
    job = worker_job(
        tmp_path,
        ranks=3,
        args={"steps": 1300, "pause": 0.01, "wait": 0.1, "slow_to": 420},
        health={"straggler": 1.5},
    )
    process = job.start()
    try:
        poll(lambda: "straggler" in job.kinds(), 120, "a straggler")
        assert [row["rank"] for row in job.status()["ranks"] if row["straggler"]] == [1]
        assert process.wait(120) == 0, job.output()
    finally:
        end(process)
    told = [event["data"] for event in job.events() if event["kind"] == "straggler"]
    assert [(one["rank"], one["over"]) for one in told] == [(1, False), (1, True)]
    assert told[0]["factor"] > 1.5
    assert told[0]["likely"] == "it waits for its data"
    assert told[0]["seconds"] >= 30
    assert told[0]["device"].startswith(DeviceKind.CPU.value)
