"""Where the controller answers, and what it is shown: from the environment, else from its home.

| variable | |
|---|---|
| MUSTER_URL | the controller's address; without it the one that runs in MUSTER_HOME |
| MUSTER_TOKEN, MUSTER_TOKEN_FILE | a token, or the file that holds it; else MUSTER_HOME/token |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from orchestrator import processes
from orchestrator.client.errors import BadAddress, NoToken, Unreachable
from orchestrator.layout import Home, read_json
from orchestrator.processes import Identity

URL = "MUSTER_URL"
TOKEN = "MUSTER_TOKEN"
TOKEN_FILE = "MUSTER_TOKEN_FILE"

_START_ONE = f"`muster up` starts one, {URL} names one elsewhere"


@dataclass(frozen=True)
class Address:
    """A controller. `process` is known of one of this machine, that its home names."""

    url: str
    token: str = field(repr=False)
    process: Identity | None = None

    @property
    def parts(self) -> SplitResult:
        return urlsplit(self.url)


def find(environment: Mapping[str, str]) -> Address:
    """The controller that the environment means.

    Raises Unreachable when none runs, BadAddress, NoToken.
    """
    home = Home.of(environment)
    if environment.get(URL):
        return Address(_checked(environment[URL], URL), _token(environment, home))
    document = read_json(home.address)
    if not isinstance(document, dict):
        raise Unreachable(
            f"no controller runs here ({home.address} is not there); {_START_ONE}", hopeless=True
        )
    process = _process(document, home.address)
    if not process.alive():
        raise Unreachable(
            f"the controller of {home.root} does not run (process {process.pid} is gone); "
            f"{_START_ONE}",
            hopeless=process.boot_id != processes.boot_id(),
        )
    # Only now: whoever got the port of a dead controller must not be shown its token.
    url = _checked(str(document.get("url")), str(home.address))
    return Address(url, _token(environment, home), process)


def _process(document: Mapping[str, Any], path: Path) -> Identity:
    try:
        return Identity(int(document["pid"]), int(document["start_time"]), str(document["boot_id"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadAddress(f"{path} names no process: no controller wrote it") from error


def _checked(url: str, origin: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise BadAddress(f"{origin}: found {url!r}, allowed: http://HOST:PORT or https://HOST")
    return url.rstrip("/")


def _token(environment: Mapping[str, str], home: Home) -> str:
    if environment.get(TOKEN):
        return _plain(environment[TOKEN], TOKEN)
    named = environment.get(TOKEN_FILE)
    path = Path(named).expanduser() if named else home.token
    try:
        return _plain(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not a text"
        raise NoToken(
            f"no token: {path}: {why}; give {TOKEN} or {TOKEN_FILE} "
            "(`muster tokens add` makes one on the controller's machine)"
        ) from error


def _plain(text: str, origin: str) -> str:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise NoToken(f"{origin} holds no token: one line of letters, digits, - and _ is expected")
    return token
