"""`muster up` and `muster down`: the controller as a process that belongs to nobody."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from orchestrator.cli import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_UNREACHABLE
from orchestrator.cli.common import fail, json_option, print_json, tell
from orchestrator.cli.remote import controller, needs_controller
from orchestrator.client import (
    Address,
    BadAddress,
    Client,
    ClientError,
    Problem,
    Unreachable,
    find,
)
from orchestrator.layout import HOME_VARIABLE, Home

if TYPE_CHECKING:
    from subprocess import Popen

_POLL = 0.05
_START_LIMIT = 120.0
_RAY_LIMIT = 90.0
_SHOWN = 4000
_SHOWN_LINES = 20


@click.command()
@click.option("--host", help="Where to listen; default: this machine alone.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: any free port.")
@click.option("--ray-address", help="Join this Ray instead of starting one.")
@click.option("--no-wait", is_flag=True, help="Come back before its Ray is up; jobs wait for it.")
@click.option("--foreground", is_flag=True, help="Be the controller, as systemd wants it.")
@json_option
@needs_controller
def up(
    host: str | None,
    port: int | None,
    ray_address: str | None,
    no_wait: bool,
    foreground: bool,
    as_json: bool,
) -> None:
    """Start the controller of this machine, unless it runs already, and come back."""
    chosen = {"--host": host, "--port": port, "--ray-address": ray_address}
    options = [
        text for name, value in chosen.items() if value is not None for text in (name, str(value))
    ]
    home = Home.of(os.environ)
    address = _running()
    if foreground:
        if address is not None:
            fail(
                f"the controller runs already at {address.url}: `muster down` ends it", EXIT_FAILED
            )
        _become(options)
    if address is None:
        address = _start(home, options)
        verb = "runs"
    else:
        verb = "runs already"
        if options:
            tell(f"{' '.join(options)} has no effect: `muster down` first")
    health = _health(ray_within=0.0 if no_wait else _RAY_LIMIT)
    _show(home, address, verb, health, as_json=as_json)


def _health(*, ray_within: float) -> Mapping[str, Any]:
    """The controller's health once it is known whether there is a Ray, or after so many seconds."""
    from orchestrator.cli.progress import progress

    deadline = time.monotonic() + ray_within
    with _client(patience=2.0) as client, progress("bringing up Ray"):
        while True:
            health = client.health()
            ray = health.get("ray") or {}
            if ray.get("state") != "starting" or time.monotonic() >= deadline:
                return health
            time.sleep(4 * _POLL)


def _show(
    home: Home, address: Address, verb: str, health: Mapping[str, Any], *, as_json: bool
) -> None:
    pid = address.process.pid if address.process else None
    if as_json:
        result = {
            "controller_pid": pid,
            "url": address.url,
            "ray_address": health.get("ray_address"),
        }
        print_json({"schema": 1, "observed_at": time.time(), **result})
        return
    click.echo(f"the controller {verb} at {address.url} (process {pid}); its log: {home.log}")
    ray = health.get("ray") or {}
    if ray.get("state") not in (None, "up"):
        tell(
            f"Ray is not there yet ({ray.get('reason') or ray['state']}): jobs wait; {home.ray_log}"
        )
    for warning in health.get("warnings", ()):
        tell(warning)
    click.echo("next: muster submit FILE, muster ps, muster down")


def _here() -> Mapping[str, str]:
    """What names the controller of this machine's home: up starts no other one."""
    return {name: value for name, value in os.environ.items() if name == HOME_VARIABLE}


def _client(patience: float = 0.0) -> Client:
    return Client.from_environment(_here(), patience=patience)


def _running() -> Address | None:
    """The controller that answers, None if none runs; ends with code 4 if it is not well."""
    try:
        address = find(_here())
    except (Unreachable, BadAddress):
        return None  # whatever lies there, no living controller wrote it
    try:
        # A moment's patience: it may be about to answer, or to end.
        with _client(patience=2.0) as client:
            client.health()
    except Unreachable as error:
        if address.process and not address.process.alive():
            return None
        pid = address.process.pid if address.process else "?"
        fail(f"{error}; process {pid} is there: look into {Home.of(_here()).log}", EXIT_UNREACHABLE)
    return address


def _command(options: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "orchestrator.service", *options]


def _environment() -> dict[str, str]:
    """Ours, so that it means the same to a process that does not stand where we do."""
    from cluster.simulated.directory import VARIABLE

    given = dict(os.environ)
    for name in (HOME_VARIABLE, VARIABLE):
        if given.get(name):
            given[name] = os.path.abspath(os.path.expanduser(given[name]))
    package = str(Path(__file__).resolve().parents[2])
    places = [os.path.abspath(one) for one in given.get("PYTHONPATH", "").split(os.pathsep) if one]
    if sys.path[:1] == [package]:  # found by `python -m` because we stand in it
        places.insert(0, package)
    if places:
        given["PYTHONPATH"] = os.pathsep.join(places)
    return given


def _become(options: Sequence[str]) -> NoReturn:
    environment = _environment()
    os.chdir("/")
    os.execve(sys.executable, _command(options), environment)


def _start(home: Home, options: Sequence[str]) -> Address:
    from subprocess import DEVNULL, Popen

    from orchestrator.cli.progress import progress

    try:
        home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(home.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        fail(
            f"{error.filename}: {error.strerror}; {HOME_VARIABLE} names another place", EXIT_FAILED
        )
    with os.fdopen(log, "ab") as output:
        before = os.fstat(log).st_size
        process = Popen(
            _command(options),
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
    with progress("starting the controller"):
        address = _until_it_answers(process)
    if address is None:
        _tell_failure(home, process, before)
    return address


def _until_it_answers(process: Popen[bytes]) -> Address | None:
    """The controller, whoever started it; None once the process has ended without one."""
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        try:
            address = find(_here())
            with _client() as client:
                client.health()
        except (Unreachable, BadAddress, Problem):
            if ended:
                return None
            time.sleep(_POLL)
        else:
            _give_way(process, address)
            return address
    return None


def _give_way(process: Popen[bytes], address: Address) -> None:
    """End what we have started if another start came first: it must not succeed that one later."""
    if address.process is not None and address.process.pid != process.pid:
        process.terminate()
        process.wait()


def _tell_failure(home: Home, process: Popen[bytes], before: int) -> NoReturn:
    with open(home.log, "rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(before, size - _SHOWN))
        said = log.read().decode(errors="replace").rstrip().splitlines()[-_SHOWN_LINES:]
    for line in said:
        click.echo(line, err=True)
    if process.poll() is None:
        fail(
            f"the controller (process {process.pid}) does not answer after {_START_LIMIT:.0f} s; "
            f"it goes on starting, see {home.log}",
            EXIT_FAILED,
        )
    fail(f"the controller did not start; all that it said is in {home.log}", EXIT_FAILED)


@click.command()
@click.option("--keep-ranks", is_flag=True, help="Leave ranks running; `up` finds them again.")
@click.option("--drain", is_flag=True, help="Take no job in, and end when the running ones have.")
@json_option
@needs_controller
def down(keep_ranks: bool, drain: bool, as_json: bool) -> None:
    """End the controller. Running jobs are stopped gracefully and queued for the next start."""
    if keep_ranks and drain:
        fail("--keep-ranks leaves running jobs alone, --drain waits for them: choose one")
    try:
        address = find(os.environ)
    except Unreachable as error:
        _ended(str(error), as_json=as_json)
        return
    client = controller()
    try:
        client.down(keep_ranks=keep_ranks, drain=drain)
    except Unreachable:
        if address.process is None or address.process.alive():
            raise
    with _telling("running jobs end first" if drain else "the controller ends"):
        while _is_there(address):
            time.sleep(_POLL)
    _ended(f"the controller at {address.url} has ended", as_json=as_json)


def _ended(sentence: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"schema": 1, "observed_at": time.time(), "running": False}))
    else:
        click.echo(sentence)


def _is_there(address: Address) -> bool:
    if address.process is not None:
        return address.process.alive()
    try:
        with Client(lambda: address, patience=0.0) as client:
            client.health()
    except Unreachable:
        return False
    except ClientError:
        return True
    return True


@contextmanager
def _telling(what: str) -> Iterator[Any]:
    from orchestrator.cli.progress import progress

    try:
        with progress(what):
            yield
    except KeyboardInterrupt:
        fail("it goes on ending; `muster down` again waits for it", EXIT_INTERRUPTED)
