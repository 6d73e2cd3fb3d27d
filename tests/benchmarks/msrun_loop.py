"""The peer of the recovery benchmarks: what people write around msrun to have it restarted.

    until msrun --worker_num=4 --local_worker_num=4 --join=True --log_dir=LOGS \\
        --master_port=PORT script.py --steps=60 --pause=0.05; do :; done

It is re-created here as the same calls in the same order: start msrun, wait for it, and start it
again at once while it fails. The fault is a SIGKILL of one worker. msrun starts `python` as found
on PATH, so this Python's directory stands first there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.ports import lease_port
from tests.benchmarks.bench import BIN, Bench, BenchmarkError, end, tail
from tests.benchmarks.steps import first_step, pid_in, steps_in

START_TIMEOUT = 180.0
RETURN_TIMEOUT = 180.0
BACK_TIMEOUT = 240.0


@dataclass(frozen=True)
class Scene:
    """The job and its fault: worker `victim` is killed once it has reported step `kill_at`."""

    script: Path
    arguments: Sequence[str]
    ranks: int
    victim: int
    kill_at: int
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Recovery:
    """One recovery of the loop, in seconds after the kill."""

    returned: float
    """msrun has returned: only then can the loop begin to act."""
    first_step: float
    """A worker of a later round has made its first step."""


def recover(bench: Bench, scene: Scene) -> Recovery:
    """Run the loop until it has come back from one kill, then end it with all its processes."""
    with lease_port() as lease:
        loop = _Loop(bench, scene, lease.port)
        try:
            killed_at = loop.break_it()
            returned = loop.await_return() - killed_at
            return Recovery(returned, loop.await_step(killed_at) - killed_at)
        finally:
            loop.stop()


class _Loop:
    def __init__(self, bench: Bench, scene: Scene, port: int) -> None:
        self._bench = bench
        self._scene = scene
        folder = bench.folder("msrun")
        self._logs = [folder / f"worker_{rank}.log" for rank in range(scene.ranks)]
        self._output = folder / "output"
        self._argv = [
            str(BIN / "msrun"),
            f"--worker_num={scene.ranks}",
            f"--local_worker_num={scene.ranks}",
            "--join=True",
            f"--log_dir={folder}",
            f"--master_port={port}",
            str(scene.script),
            *scene.arguments,
        ]
        self._round = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = self._bench.environment(**self._scene.environment)
        folder = self._output.parent
        return self._bench.start(self._argv, self._output, env=environment, cwd=folder)

    def break_it(self) -> float:
        """Kill the victim in mid-training; returns when (CLOCK_MONOTONIC)."""
        log = self._logs[self._scene.victim]

        def there() -> bool:
            if self._round.poll() is not None:
                raise BenchmarkError(f"msrun ended by itself:\n{tail(self._output)}{tail(log)}")
            return any(step >= self._scene.kill_at for step, _ in steps_in(log))

        self._bench.until(there, START_TIMEOUT, f"step {self._scene.kill_at} under msrun")
        pid = pid_in(log)
        if pid is None:
            raise BenchmarkError(f"{log} names no process")
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        return killed_at

    def await_return(self) -> float:
        """When msrun has returned, with an error as it must."""
        ended = self._bench.until(
            lambda: self._round.poll() is not None and time.monotonic(),
            RETURN_TIMEOUT,
            "msrun to return after the kill",
            every=0.005,
        )
        if self._round.returncode == 0:
            raise BenchmarkError("msrun reported success for a job that lost a worker")
        return ended

    def await_step(self, killed_at: float) -> float:
        """Start again while it fails; when the first of all workers makes a step."""
        self._round = self._start()

        def stepped() -> float | None:
            if self._round.poll() is not None:
                self._round = self._start()
            found = [first_step(steps_in(log), after=killed_at) for log in self._logs]
            return min((at for at in found if at is not None), default=None)

        return self._bench.until(stepped, BACK_TIMEOUT, "a new step of the loop around msrun")

    def stop(self) -> None:
        """End msrun and what it started: its workers have sessions of their own."""
        end(self._round, grace=0.0)
        self._bench.clear()
