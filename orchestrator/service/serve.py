"""The process of a head: store, tokens, head and API, from the first check to the last file.

`head.json` says where the API answers, from when it does until the process ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import uvicorn
import uvloop

from orchestrator import __version__, processes
from orchestrator.api.app import create_app
from orchestrator.api.connection import Connection
from orchestrator.api.desk import Desk, Ending
from orchestrator.jobfile import JobFileError
from orchestrator.layout import Home, store_file, write_json
from orchestrator.queueing.quota_file import Queues, load
from orchestrator.service import surroundings
from orchestrator.service.head import Head
from orchestrator.service.shared_ray import SharedRay
from orchestrator.service.tokens import Doorkeeper, TokenError, Tokens
from orchestrator.store import Store
from orchestrator.store.errors import StoreError

EXIT_FAILED = 1
_LAST_ANSWERS = 5.0
"""Seconds that requests under way have to end when the server stops."""
_KEEP_ALIVE = 75
_DRAIN_LOOK = 0.5
_SWITCH_SECONDS = 0.05
"""Every thread that waits for the interpreter wakes up once in this time. When a thousand drives
have something to do at once, as after a standstill, Python's 5 ms has them do nothing else."""


class CannotStart(RuntimeError):
    """No controller can be started; the message says why and the way out."""


def main(
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] = os.environ,
    head_class: type[Head] = Head,
) -> int:
    """Run a controller until it is told to end; the exit code."""
    options = _options(arguments)
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        _Process(options, environment, head_class).run()
    except (CannotStart, StoreError, TokenError) as error:
        print(f"muster: {error}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"muster: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.service", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    parser.add_argument("--ray-address", dest="ray", help="a Ray cluster to join: HOST:PORT, auto")
    parser.add_argument("--port", type=int, default=0, help="the port; 0 takes a free one")
    return parser.parse_args(arguments)


class _Process:
    """Everything that lives as long as the process."""

    def __init__(
        self, options: argparse.Namespace, environment: Mapping[str, str], head_class: type[Head]
    ) -> None:
        self._options, self._environment, self._head_class = options, environment, head_class
        self._home = Home.of(environment)
        self._ending: Ending | None = None
        self._ended = asyncio.Event()

    def run(self) -> None:
        """Start, serve, end. Raises CannotStart, StoreError, TokenError, OSError."""
        self._home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Store.open(store_file(self._environment)) as store:
            # The store's lock makes this the only controller: what lies here is a dead one's.
            self._home.address.unlink(missing_ok=True)
            warnings = self._surroundings()
            Tokens(self._home).begin()
            _raise_descriptors()
            sys.setswitchinterval(_SWITCH_SECONDS)
            with listening(self._options.host, self._options.port) as listener:
                ray = SharedRay(self._home.root, self._home.ray_log, address=self._options.ray)
                head = self._head_class(
                    store, self._home.runs, self._environment, ray, self._queues()
                )
                for warning in (*store.warnings, *warnings):
                    logging.warning(warning)
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(self._serve(head, listener, warnings))

    def _queues(self) -> Queues:
        try:
            return load(self._home.queues)
        except JobFileError as error:
            raise CannotStart(str(error)) from error

    def _surroundings(self) -> tuple[str, ...]:
        here = surroundings.look(self._home, loopback=_is_loopback(self._options.host))
        objections = surroundings.objections(here)
        if objections:
            raise CannotStart("\n".join(objections))
        return surroundings.warnings(here)

    async def _serve(self, head: Head, listener: socket.socket, warnings: tuple[str, ...]) -> None:
        desk = Desk(head, end=self.end, warnings=warnings)
        server = Server(configuration(desk, Doorkeeper(self._home)))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end, Ending(keep_ranks=True))
        await asyncio.to_thread(head.begin)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await _answering(server, serving)
            write_json(self._home.address, self._address(head, listener))
            logging.info("listening on %s", url_of(listener))
            await asyncio.wait(
                [serving, asyncio.create_task(self._ended.wait())],
                return_when=asyncio.FIRST_COMPLETED,
            )
            await self._end(head)
        finally:
            desk.watchers.close()
            server.should_exit = True
            await serving
            desk.close()
            self._home.address.unlink(missing_ok=True)

    def end(self, ending: Ending) -> None:
        """Begin to end; the first word counts."""
        if self._ending is None:
            self._ending = ending
            self._ended.set()

    async def _end(self, head: Head) -> None:
        """Reads are answered until the last job has been seen to."""
        ending = self._ending or Ending(keep_ranks=True)
        logging.info("going down: %s", asdict(ending))
        await asyncio.to_thread(head.drain)
        while ending.drain and head.drives:
            await asyncio.sleep(_DRAIN_LOOK)
        await asyncio.to_thread(head.close, keep_ranks=ending.keep_ranks)

    def _address(self, head: Head, listener: socket.socket) -> dict[str, Any]:
        me = processes.identify(os.getpid())
        assert me is not None
        return {
            "url": url_of(listener),
            **asdict(me),
            "epoch": head.epoch,
            "started_at": time.time(),
            "version": __version__,
        }


class Server(uvicorn.Server):
    """A server whose signals are its process's own affair."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def configuration(desk: Desk, doorkeeper: Doorkeeper) -> uvicorn.Config:
    """How the API is served: with our bounds, without logs that strangers can fill."""
    return uvicorn.Config(
        create_app(desk, doorkeeper),
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        # Its warnings are of what strangers send: a log that anybody can fill.
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(_LAST_ANSWERS),
    )


async def _answering(server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    while not server.started:
        if serving.done():
            serving.result()
            raise CannotStart("the API ended before it answered; the log says why")
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that the API will answer on. Raises CannotStart."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotStart(f"--host {host}: {error.strerror or error}") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except (OSError, OverflowError) as error:
            raise CannotStart(
                f"{host}, port {port}: {error}. Choose another --port; 0 takes a free one"
            ) from error
        yield listener


def url_of(listener: socket.socket) -> str:
    """Where a client on this machine reaches a listener."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listener.family is socket.AF_INET else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _raise_descriptors() -> None:
    """Room for every connection: the limit at hand is often 1024, what may be had is more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
