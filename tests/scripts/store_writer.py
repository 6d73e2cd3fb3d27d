"""Writes to a store from several threads until it is killed; says on stdout what it was told.

Arguments: the store, a name for this process, how many threads. A line is a list: key, job, the
number of the job's last event, its state.
"""

import itertools
import json
import os
import sys
import threading
from pathlib import Path

from orchestrator.states import JobState, RankState
from orchestrator.store import Store
from orchestrator.store.values import AttemptRecord, RankRecord, happened
from tests.stores import submission

path, process, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = Store.open(path)
epoch = store.begin_epoch()


def told(key: str, job: str, event: int, state: JobState) -> None:
    """A line of less than PIPE_BUF bytes is written whole."""
    os.write(1, json.dumps([key, job, event, state.value]).encode() + b"\n")


def caller(name: int) -> None:
    """Submit and start jobs for ever."""
    for number in itertools.count():
        key = f"{process}-{name}-{number}"
        job = store.submit(submission(key), epoch=epoch).job
        told(key, job, 1, JobState.QUEUED)
        records = [
            AttemptRecord(attempt=1, started_at=1.0),
            *(RankRecord(attempt=1, rank=rank, node="n", device=f"cpu:{rank}",
                         state=RankState.STARTING) for rank in range(4)),
        ]  # fmt: skip
        event = happened("attempt", attempt=1, state=JobState.STARTING)
        moved = store.transition(
            job, event, seen=JobState.QUEUED, epoch=epoch, records=records
        ).sequence
        told(key, job, moved, JobState.STARTING)


os.write(1, b"[]\n")
for name in range(threads):
    threading.Thread(target=caller, args=(name,)).start()
