"""Fills the disk that a store lies on and makes room again; prints what the store did, as JSON.

Argument: a directory on a small file system.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from orchestrator.states import JobState
from orchestrator.store import Store
from orchestrator.store import store as module
from orchestrator.store.errors import StoreFull
from orchestrator.store.values import Page, happened
from tests.stores import submission

place = Path(sys.argv[1])
store = Store.open(place / "store" / "muster.db")
epoch = store.begin_epoch()
job = store.submit(submission("first"), epoch=epoch).job
said = {"warnings": list(store.warnings)}


def fill(leave: int) -> None:
    """Leave so many bytes free."""
    with open(place / "filler", "ab") as file, contextlib.suppress(OSError):
        while (free := os.statvfs(place).f_bavail * 4096) > leave:
            file.write(bytes(min(1 << 16, free - leave)))
            file.flush()


def refused(act: Callable[[], object]) -> str:
    """What StoreFull said; empty if it was done."""
    try:
        act()
    except StoreFull as error:
        return str(error)
    return ""


def note(kind: str) -> None:
    """Record an event of some size."""
    event = happened(kind, text="x" * 3000)
    store.transition(job, event, seen=JobState.QUEUED, epoch=epoch)


# Little room: no job is taken in, and what runs is recorded all the same.
fill(module.HEADROOM // 2)
said["intake"] = refused(lambda: store.submit(submission("second"), epoch=epoch))
note("while intake is stopped")
# No room at all: the reserve pays for a while. Then nothing can be recorded, nobody is told so.
fill(0)
note("from the reserve")
said["reserve"] = (place / "store" / "muster.db.reserve").exists()
kept = 0
while not (full := refused(lambda: note("filling"))):
    kept += 1
said["full"] = full
said["still"] = refused(lambda: note("filling"))
said["readable"] = store.job(job).last_event == 3 + kept
said["backup"] = refused(lambda: store.backup(place / "backup.db"))
said["leftovers"] = sorted(path.name for path in place.iterdir())
(place / "filler").unlink()
note("room again")
said["second"] = store.submit(submission("second"), epoch=epoch).name
kinds = [told.event.kind for told in store.events(job)]
said["events"] = kinds == [
    "created", "while intake is stopped", "from the reserve", *["filling"] * kept, "room again"
]  # fmt: skip
said["filled"] = kept
store.close()
# A controller that begins on a full disk can begin.
fill(0)
with Store.open(place / "store" / "muster.db") as again:
    said["epoch"] = again.begin_epoch()
    said["jobs"] = len(again.jobs(page=Page(10)).jobs)
    said["all"] = len(again.events(job)) == kept + 4
print(json.dumps(said))
