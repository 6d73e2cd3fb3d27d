"""The store under kill -9 and on a full disk: what was promised is there, nothing half is."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import pytest

from orchestrator.states import JobState
from orchestrator.store.values import JobRecord, Page
from tests.stores import Head, start, submission

KILLS = 20
THREADS = 6


def write_until_killed(path: Path, process: int, draw: random.Random) -> list[list[str | int]]:
    """Let a process write, kill it at a random moment; what it was told."""
    writer = start("store_writer.py", path, process, THREADS)
    assert writer.stdout and writer.stderr
    assert writer.stdout.readline() == "[]\n", writer.stderr.read()
    lines = [writer.stdout.readline() for _ in range(draw.randrange(1, 60))]
    # Between two answers too, anywhere in the next commits.
    threading.Event().wait(draw.uniform(0, 0.01))
    writer.kill()
    rest, _ = writer.communicate()
    return [json.loads(line) for line in [*lines, *rest.splitlines()] if line.endswith(("]", "\n"))]


def check_whole(head: Head, job: JobRecord) -> None:
    """A job's row, file, events and records agree."""
    told = head.store.events(job.job)
    assert [one.sequence for one in told] == list(range(1, job.last_event + 1))
    assert job.state is [one.event.state for one in told][-1]
    assert head.store.job_file(job.job).text == submission().text
    started = job.state is JobState.STARTING
    assert len(head.store.attempts(job.job)) == started
    assert len(head.store.ranks(job.job, 1)) == 4 * started


@pytest.mark.slow
def test_what_was_acknowledged_outlives_kill_9(tmp_path: Path) -> None:
    """Twenty writers killed at random moments: every answer holds, nothing is there by half, and a
    repeated submission finds the job that was made or makes one."""
    path = tmp_path / "store" / "muster.db"
    draw = random.Random(20261123)
    told: dict[str, tuple[str, int, str]] = {}
    unheard = 0
    for process in range(KILLS):
        for key, job, event, state in write_until_killed(path, process, draw):
            told[str(key)] = (str(job), int(event), str(state))
        with Head(path) as head:
            assert head.epoch == 2 * process + 2
            jobs = head.store.jobs(page=Page(10_000)).jobs
            by_key = {one.key: one for one in jobs}
            assert len(by_key) == len(jobs)
            for known, (job, event, state) in told.items():
                there = by_key[known]
                assert there.job == job and there.last_event >= event
                assert there.last_event > event or there.state.value == state
            newest = [one for one in jobs if str(one.key).startswith(f"{process}-")]
            for one in newest:
                check_whole(head, one)
            unheard += len([one for one in newest if one.key not in told])
            for name in range(THREADS):
                mine = [one for one in newest if str(one.key).startswith(f"{process}-{name}-")]
                for number in (len(mine) - 1, len(mine)):
                    key = f"{process}-{name}-{number}"
                    again = head.submit(key)
                    assert again.job == (by_key[key].job if key in by_key else again.job)
                    told[key] = (again.job, again.last_event, again.state.value)
    assert len(told) > KILLS * THREADS
    # Kills did land between a commit and its answer.
    assert unheard > 0


def test_a_full_disk_stops_intake_and_no_more(tmp_path: Path) -> None:
    """Little room: no new job, but moves. None: moves from a reserve, then StoreFull, while
    reading goes on. Room: all goes on. A controller can begin on a full disk."""
    place = tmp_path / "small"
    place.mkdir()
    # A file system of its own, in a mount namespace of its own: nobody else sees it.
    script = 'mount -t tmpfs -o size=48m none "$1" && shift && exec "$@"'
    process = start(
        "store_full_disk.py", place, before=("unshare", "-rm", "sh", "-c", script, "sh", str(place))
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    said = json.loads(out)
    assert "tmpfs" in said["warnings"][0]
    assert "8 MiB free; no job is taken in below 16 MiB" in said["intake"]
    assert "no room, or the disk fails" in said["full"] and "running ranks go on" in said["full"]
    assert said["still"] and said["backup"] and said["readable"]
    assert said["leftovers"] == ["filler", "store"]
    assert said["second"] == "small" and said["events"] and said["all"]
    assert not said["reserve"] and said["filled"] > 100
    assert said["jobs"] == 2 and said["epoch"] == 2
