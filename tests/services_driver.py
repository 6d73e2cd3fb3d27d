"""What runs in the processes of `tests.services.Driver`: a head, and orders through a pipe."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from orchestrator.jobfile import load
from orchestrator.layout import Home, store_file
from orchestrator.orders import OrderKind
from orchestrator.service.head import Head
from orchestrator.store import Store
from tests.plain_ray import PlainRay


def main(environment: Mapping[str, str], pipe: Connection, die: tuple[int, str] | None) -> None:
    """Be a head until told to close, or until the commit to die at."""
    os.environ.clear()
    os.environ.update(environment)
    store = Store.open(store_file(environment))
    if die is not None:
        _die_at(store, *die)
    head = Head(store, Home.of(environment).runs, environment, PlainRay())
    head.begin()
    while True:
        try:
            order, *arguments = pipe.recv()
        except EOFError:
            return
        if order == "close":
            head.close(keep_ranks=arguments[0])
            store.close()
            pipe.send(True)
            return
        pipe.send(_answer(head, order, *arguments))


def _answer(head: Head, order: str, *arguments: Any) -> Any:
    match order:
        case "submit":
            file, key = Path(arguments[0]), arguments[1]
            text = file.read_bytes()
            return head.submit(load(file), text, user="tester", key=key).result().job
        case "order":
            try:
                return head.order(arguments[0], OrderKind(arguments[1]), "tester").state.value
            except Exception as error:
                return str(error)
        case "commits":
            return head.store.commits
        case "health":
            return head.health()
        case "stale":
            return _stale(head, *arguments)
    raise AssertionError(order)


def _stale(head: Head, *_: Any) -> Any:
    return head.epoch


class _Deadly:
    """A connection that kills this process at a commit."""

    def __init__(self, connection: sqlite3.Connection, number: int, when: str) -> None:
        self._connection, self._left, self._when = connection, number, when

    def execute(self, statement: str, *values: Any) -> Any:
        if statement != "COMMIT":
            return self._connection.execute(statement, *values)
        self._left -= 1
        if self._left == 0 and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = self._connection.execute(statement)
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _die_at(store: Store, number: int, when: str) -> None:
    writer = store._writer
    writer._connection = _Deadly(writer._connection, number, when)  # type: ignore[assignment]
