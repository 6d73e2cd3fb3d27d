"""`muster` without a Ray: supervisors are started plainly, and stand-ins die in Ray's place.

The raylet and the rendezvous scheduler are processes that do nothing, so that both can be killed
where a real one would cost seconds. Everything else of a run is real.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are not installed

from cluster.ray_client import Event, RayLost
from orchestrator import local_run, plan, processes
from orchestrator.cli import main
from orchestrator.job_ray import JobRay
from tests.plain_ray import PlainLine

IDLE = ("sleep", "600")


class MortalLine(PlainLine):
    """Tells of the death of its raylet, once."""

    def __init__(self, job: str) -> None:
        super().__init__(job)
        own = os.getpid()
        self._raylet = subprocess.Popen(
            IDLE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: processes.die_with_parent(own),
        )
        self._lost = False

    def poll(self) -> tuple[Event, ...]:
        if not self._lost and self._raylet.poll() is not None:
            self._lost = True
            return (RayLost("its raylet has ended"), *super().poll())
        return super().poll()

    def raylets(self) -> tuple[int, ...]:
        return () if self._lost else (self._raylet.pid,)

    def close(self) -> None:
        self._raylet.kill()
        self._raylet.wait()
        super().close()


def plain_ray(*, job: str, directory: Any, spool: Any) -> JobRay:
    """In place of a Ray of the run's own."""
    ray = JobRay(MortalLine(job), Path("/dev/null"))
    ray.there = True
    return ray


def idle_scheduler(gang: Any, made: Any = plan._Gang.scheduler) -> Any:
    """In place of MindSpore's."""
    return replace(made(gang), argv=IDLE, module=None, start="spawn")


if __name__ == "__main__":
    local_run.PrivateRay = plain_ray  # type: ignore[assignment,misc]
    plan._Gang.scheduler = idle_scheduler  # type: ignore[method-assign]
    sys.exit(main(prog_name="muster"))
