"""What benchmarks stand on: a place of their own, processes that surely end, and progress."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from orchestrator import processes
from orchestrator.plan import user_environment

MARK = "BENCHMARK_MARK"
"""Inherited by whatever a benchmark starts, to find what escaped its session."""

SCRIPTS = Path(__file__).parent / "scripts"
BIN = Path(sys.executable).parent
Argv = list[str | Path]
MUSTER = (sys.executable, "-m", "orchestrator")

_POLL = 0.02
_GONE_WITHIN = 15.0
_TAIL = 2000
_T = TypeVar("_T")
_P = TypeVar("_P")


class BenchmarkError(RuntimeError):
    """The benchmark could not measure; the message says why."""


class Unavailable(RuntimeError):
    """What the benchmark needs is not there (yet); the message says what."""


class Progress:
    """Says what is being waited for: a spinner on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console | None = None, every: float = 10.0) -> None:
        self._console = console or Console(stderr=True)
        self._every = every
        self._doing = ""
        self._since = self._said = time.monotonic()

    @contextlib.contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Within this block, `text` is what is being done."""
        outer = self._doing, self._since
        self._doing, self._since = text, time.monotonic()
        self._said = self._since
        if not self._console.is_terminal:
            self.say(text)
        status = self._console.status(text) if self._console.is_terminal and not outer[0] else None
        try:
            with status or contextlib.nullcontext():
                yield
        finally:
            self._doing, self._since = outer

    def tick(self) -> None:
        """Time has passed."""
        now = time.monotonic()
        if now - self._said >= self._every:
            self._said = now
            self.say(f"{self._doing}: {now - self._since:.0f} s")

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Bench:
    """The place of one benchmark: a directory, and processes that all bear its mark."""

    def __init__(self, directory: Path, progress: Progress) -> None:
        self.directory = directory
        self.progress = progress
        self._token = secrets.token_hex(8)

    def folder(self, name: str) -> Path:
        """A new folder of the benchmark's own."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))

    def environment(self, **own: str) -> dict[str, str]:
        """The user's environment without what confuses ranks, this Python first on PATH."""
        base = user_environment(os.environ)
        path = os.pathsep.join([str(BIN), base.get("PATH", os.defpath)])
        return {**base, "PATH": path, MARK: self._token, **own}

    def start(
        self, argv: Sequence[str | Path], log: Path, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own; its output is appended to `log`."""
        options.setdefault("env", self.environment())
        with open(log, "ab") as output:
            return subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )

    def complete(
        self, argv: Sequence[str | Path], log: Path, timeout: float, **options: Any
    ) -> None:
        """Run a program to its end; BenchmarkError if it fails or takes too long."""
        process = self.start(argv, log, **options)
        try:
            self.until(lambda: process.poll() is not None, timeout, f"{_command(argv)} to end")
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}:\n{tail(log)}") from error
        finally:
            end(process)
        if process.returncode != 0:
            raise BenchmarkError(f"{_command(argv)} ended with {process.returncode}:\n{tail(log)}")

    def output(self, argv: Sequence[str | Path], timeout: float, **own: str) -> str:
        """Run a short program and return what it printed; BenchmarkError if it fails."""
        try:
            done = subprocess.run(
                [str(part) for part in argv],
                env=self.environment(**own),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(str(error)) from error
        if done.returncode != 0:
            raise BenchmarkError(
                f"{_command(argv)} ended with {done.returncode}:\n{done.stderr[-_TAIL:]}"
            )
        return done.stdout

    def until(
        self, condition: Callable[[], _T | None], timeout: float, what: str, every: float = _POLL
    ) -> _T:
        """The first true value of `condition`; BenchmarkError when there is none in time."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"waited {timeout:g} s for {what}")
            self.progress.tick()
            time.sleep(every)
        return value

    def clear(self) -> None:
        """End whatever bears the mark; BenchmarkError if something stays."""
        deadline = time.monotonic() + _GONE_WITHIN
        while left := self.left():
            if time.monotonic() > deadline:
                raise BenchmarkError(f"processes that do not die: {left}")
            for pid in left:
                processes.kill_quietly(pid)
            time.sleep(_POLL)

    def left(self) -> list[int]:
        """Living processes of the benchmark."""
        marked = processes.marked(MARK, self._token)
        return [pid for pid in marked if processes.state_of(pid) not in (None, "Z")]


@contextlib.contextmanager
def place(progress: Progress) -> Iterator[Bench]:
    """A place for one benchmark that takes every process and file with it."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as directory:
        bench = Bench(Path(directory), progress)
        try:
            yield bench
        finally:
            bench.clear()


def in_turn(
    rounds: int, ours: Callable[[int], _T], peer: Callable[[int], _P]
) -> tuple[list[_T], list[_P]]:
    """Call both sides `rounds` times, one after the other; what each returned."""
    pairs = [(ours(number), peer(number)) for number in range(1, rounds + 1)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def end(process: subprocess.Popen[bytes], grace: float = 30.0) -> None:
    """End a program that `Bench.start` started: TERM, `grace` seconds, KILL to its group."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tail(log: Path) -> str:
    """The last lines of a log, for an error message."""
    try:
        return log.read_text(errors="replace")[-_TAIL:]
    except OSError as error:
        return str(error)


def _command(argv: Sequence[str | Path]) -> str:
    return shlex.join(map(str, argv))
