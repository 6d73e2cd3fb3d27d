"""What around a controller would end it or take its files, told at its start.

Sources: logind.conf(5) (`RemoveIPC=`, `KillUserProcesses=`), sd_booted(3), loginctl(1) on
lingering, systemd's NEWS 212 for what "system user" means there (uid below 1000, as in login.defs).
"""

from __future__ import annotations

import configparser
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.layout import Home

_FIRST_ORDINARY_UID = 1000
_LOGIND = "systemd/logind.conf"
_CONFIGURATION = ("etc", "run", "usr/local/lib", "usr/lib")
"""Where systemd looks, the strongest first."""
_TRUE = frozenset({"1", "yes", "y", "true", "t", "on"})


@dataclass(frozen=True)
class Surroundings:
    """What was read of this machine and user. `unwritable` says why runs cannot be written.

    `remove_ipc` and `kill_processes` are logind's settings; `session` is whether this process
    belongs to a login and not to a service.
    """

    user: str
    uid: int
    runs: str
    unwritable: str = ""
    logind: bool = False
    lingering: bool = False
    remove_ipc: bool = True
    kill_processes: bool = False
    session: bool = False
    loopback: bool = True


def objections(here: Surroundings) -> tuple[str, ...]:
    """Why no controller can be started here, each with the way out."""
    if not here.unwritable:
        return ()
    return (
        f"{here.runs}: run directories cannot be made there ({here.unwritable}); make it writable "
        "or set MUSTER_HOME to another directory",
    )


def warnings(here: Surroundings) -> tuple[str, ...]:
    """What would break it later, each with the way out."""
    told = []
    ordinary = here.uid >= _FIRST_ORDINARY_UID
    if here.logind and here.remove_ipc and ordinary and not here.lingering:
        told.append(
            f"when the last session of {here.user} ends, systemd-logind empties /dev/shm of this "
            "user's files (RemoveIPC=yes), heartbeats and sockets of running jobs among them. "
            f"Keep the user: loginctl enable-linger {here.user}; or set RemoveIPC=no in "
            "/etc/systemd/logind.conf"
        )
    if here.logind and here.kill_processes and here.session and here.uid != 0:
        told.append(
            "this controller runs inside a login, and systemd-logind kills what a login leaves "
            "behind (KillUserProcesses=yes): ranks would die with it. Start the controller as a "
            f"service (muster.service), or exclude {here.user} in /etc/systemd/logind.conf"
        )
    if not here.loopback:
        told.append(
            "it listens beyond this machine without encryption: tokens and jobs can be read on "
            "the way. Listen on 127.0.0.1 and put a proxy with TLS before it, or use a private "
            "network"
        )
    return tuple(told)


def look(home: Home, *, loopback: bool = True, root: Path = Path("/")) -> Surroundings:
    """Read what matters of this machine; `root` is where its files begin (tests have others)."""
    user, settings = _user(), _logind_settings(root)
    excluded = settings.get("killexcludeusers", "root").split()
    return Surroundings(
        user=user,
        uid=os.geteuid(),
        runs=str(home.runs),
        unwritable=_unwritable(home.runs),
        logind=(root / "run/systemd/system").is_dir() and (root / "run/systemd/seats").is_dir(),
        lingering=(root / "var/lib/systemd/linger" / user).exists(),
        remove_ipc=settings.get("removeipc", "yes").lower() in _TRUE,
        kill_processes=settings.get("killuserprocesses", "no").lower() in _TRUE
        and user not in excluded,
        session="session-" in _text(root / "proc/self/cgroup"),
        loopback=loopback,
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _unwritable(runs: Path) -> str:
    try:
        runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = runs / f".probe.{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _logind_settings(root: Path) -> Mapping[str, str]:
    """The section [Login]: the first main file, then drop-ins by name, the last word wins."""
    places = [root / place for place in _CONFIGURATION]
    main = next((p / _LOGIND for p in places if (p / _LOGIND).is_file()), None)
    found = {
        path.name: path
        for place in reversed(places)
        for path in (place / f"{_LOGIND}.d").glob("*.conf")
    }
    settings: dict[str, str] = {}
    for path in [*([main] if main else []), *(found[name] for name in sorted(found))]:
        settings.update(_section(path))
    return settings


def _section(path: Path) -> Mapping[str, str]:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), allow_no_value=True)
    try:
        parser.read_string(_text(path))
        section = parser["Login"]
    except (configparser.Error, KeyError):
        return {}
    return {name: (value or "").strip() for name, value in section.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
