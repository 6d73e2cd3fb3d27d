"""One HTTP exchange with the controller. Only here is it known that there are sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlencode

from orchestrator.client.address import Address
from orchestrator.client.errors import Problem, Unreachable

_CONNECT_TIMEOUT = 5.0


@dataclass(frozen=True)
class Request:
    """What is asked. `again`: the controller may be given it twice. `timeout` in seconds."""

    method: str
    path: str
    document: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    again: bool = True
    timeout: float = 30.0


class Wire:
    """Keeps one connection, for one thread. Raises Unreachable, and Problem for refusals."""

    def __init__(self) -> None:
        self._kept: HTTPConnection | None = None
        self._address: Address | None = None

    def send(self, address: Address, request: Request) -> Any:
        """The document that is the answer."""
        if request.again and self._kept is not None and self._address == address:
            try:
                return self._exchange(self._kept, address, request)
            except ConnectionError:
                pass  # closed meanwhile, as idle connections are: not worth a word
        self.close()
        self._kept, self._address = connect(address, request.timeout), address
        try:
            return self._exchange(self._kept, address, request)
        except (OSError, HTTPException) as error:
            self.close()
            raise _lost(address, error) from error

    def lines(self, address: Address, request: Request) -> Iterator[bytes]:
        """The lines of an answer as they come, on a connection of their own.

        They end, too, when nothing has come for the request's timeout.
        """
        connection = connect(address, request.timeout)
        try:
            response = _ask(connection, address, request)
            if response.status >= 400:
                raise _problem(response, response.read())
            yield from response
        except TimeoutError:
            return
        except (OSError, HTTPException) as error:
            raise _lost(address, error) from error
        finally:
            connection.close()

    def close(self) -> None:
        """Give the connection back; the next request makes another."""
        if self._kept is not None:
            self._kept.close()
        self._kept = None

    def _exchange(self, connection: HTTPConnection, address: Address, request: Request) -> Any:
        response = _ask(connection, address, request)
        body = response.read()
        if response.status >= 400:
            raise _problem(response, body)
        try:
            return json.loads(body) if body else {}
        except ValueError as error:
            raise HTTPException("the answer is not JSON: is that a muster controller?") from error


def connect(address: Address, timeout: float) -> HTTPConnection:
    """An open connection. Raises Unreachable: then nothing was sent."""
    connection = _connection(address)
    try:
        connection.connect()
    except OSError as error:
        raise Unreachable(
            f"no controller answers at {address.url} ({_reason(error)}); is it running there? "
            "`muster up` starts it"
        ) from error
    connection.sock.settimeout(timeout)
    return connection


def _connection(address: Address) -> HTTPConnection:
    parts = address.parts
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname or "", parts.port, timeout=_CONNECT_TIMEOUT)
    from http.client import HTTPSConnection

    return HTTPSConnection(parts.hostname or "", parts.port, timeout=_CONNECT_TIMEOUT)


def _ask(connection: HTTPConnection, address: Address, request: Request) -> HTTPResponse:
    body = None if request.document is None else json.dumps(request.document).encode()
    headers = {
        "Authorization": f"Bearer {address.token}",
        "Accept": "application/json",
        **({"Content-Type": "application/json"} if body is not None else {}),
        **request.headers,
    }
    if connection.sock is not None:
        connection.sock.settimeout(request.timeout)
    connection.request(request.method, f"{address.parts.path}{request.path}", body, headers)
    return connection.getresponse()


def _problem(response: HTTPResponse, body: bytes) -> Problem:
    return Problem.of(response.status, dict(response.headers), body)


def with_query(path: str, query: Mapping[str, Any]) -> str:
    """The path with what is given in the query; lists are repeated."""
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def _lost(address: Address, error: Exception) -> Unreachable:
    return Unreachable(
        f"the controller at {address.url} gave no whole answer ({_reason(error)})", sent=True
    )


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
