"""What tests leave behind: processes, directories of runs, a home, open ports.

Whose a process is, is told by what it cannot lose: the mark in the environment that it was started
with, or the directory of the tests that started it, which a head has in its `MUSTER_HOME`, a
supervisor and a rank in the names of their files. So sessions side by side, and the workers of one
session, do not blame each other.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator import processes
from orchestrator.layout import read_json

MARK = "PYTEST_SESSION_MARK"
"""Environment variable that whatever a test starts inherits."""

_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Trace:
    """By what the processes that one pytest process has started are known.

    A worker's token begins with its session's, and its directory lies in the session's: the
    session finds what a worker that crashed has left.
    """

    token: str
    directory: str

    def processes(self) -> set[int]:
        """Living processes below this one, and all that are known by mark or directory."""
        return {*processes.descendants(os.getpid()), *self.known()}

    def known(self) -> set[int]:
        """Living processes with our mark or directory, this one and zombies left out."""
        found = {int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._made(entry)}
        return {pid for pid in found - {os.getpid()} if processes.state_of(pid) not in (None, "Z")}

    def holds(self, path: str) -> bool:
        """Whether a path lies in the directory of our tests, where their runs are."""
        return path.startswith(f"{self.directory}/")

    def _made(self, entry: Path) -> bool:
        environment = _read(entry / "environ")
        if f"\0{MARK}={self.token}".encode() in b"\0" + environment:
            return True
        inside = f"{self.directory}/".encode()
        return inside in environment or inside in _read(entry / "cmdline")


def told(pids: set[int]) -> Iterator[str]:
    """A line for each process."""
    for pid in sorted(pids):
        command = _read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ")
        yield f"process {pid}: {command.decode(errors='replace').strip()[:200] or '?'}"


def run_directories() -> frozenset[str]:
    """Directories that runs keep outside their own, whoever made them."""
    temporary = Path(tempfile.gettempdir())
    places = ((_SHARED_MEMORY, "muster-*"), (temporary, "muster-ray-*"))
    return frozenset(str(path) for base, pattern in places for path in base.glob(pattern))


def of_others(path: str, trace: Trace, ours: set[int]) -> bool:
    """Whether the directory is of a run elsewhere, or a living process that is not ours uses it."""
    owners = [read_json(file) or {} for file in _SHARED_MEMORY.glob("muster-*/owner.json")]
    owned = {str(one.get("ray")): one for one in owners}
    own = (read_json(Path(path) / name) for name in ("owner.json", "run.json"))
    owner = next(filter(None, own), None) or owned.get(path, {})
    if owner.get("run_dir") and not trace.holds(owner["run_dir"]):
        return True
    users = {*processes.mentioning(path), *_holding(path), owner.get("pid", 0)} - ours
    return any(processes.state_of(pid) not in (None, "Z") for pid in users - {0, os.getpid()})


def _holding(path: str) -> Iterator[int]:
    """Processes with a file open or a socket bound below a directory (proc(5))."""
    bound = [line.split() for line in _read(Path("/proc/net/unix")).decode().splitlines()[1:]]
    sockets = {f"socket:[{row[6]}]" for row in bound if row[-1].startswith(f"{path}/")}
    for entry in Path("/proc").glob("[0-9]*"):
        opened = _open_files(entry)
        if opened & sockets or any(file.startswith(f"{path}/") for file in opened):
            yield int(entry.name)


def _open_files(entry: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for file in os.listdir(entry / "fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(entry / "fd" / file))
    return found


def own_ports() -> frozenset[str]:
    """TCP ports that this very process listens on; those of others go with their processes."""
    sockets = _open_files(Path("/proc/self"))
    return frozenset(
        f"port {port}" for inode, port in _listening() if f"socket:[{inode}]" in sockets
    )


def _listening() -> Iterator[tuple[str, int]]:
    """Inode and port of every listening TCP socket of this network namespace (proc(5))."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for fields in map(str.split, _read(Path(table)).decode().splitlines()[1:]):
            if fields[3] == "0A":  # TCP_LISTEN
                yield fields[9], int(fields[1].rpartition(":")[2], 16)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
