"""Who may talk to a head: named tokens with roles, of which only digests are kept.

A token that may submit starts commands as the head's user: it is worth that user's shell account.
"""

from __future__ import annotations

import enum
import fcntl
import hashlib
import hmac
import os
import pwd
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.layout import Home, aside, lock_beside, read_json, sync_directory

_PREFIX = "muster_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MOST = 1000


class Role(enum.Enum):
    """What the bearer may do; each role may do what those before it may."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may."""
        order = tuple(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True)
class Token:
    """A token as it is kept. Its name is the user of the jobs that are submitted with it."""

    name: str
    role: Role
    sha256: str
    created_at: float


class TokenError(ValueError):
    """The record of tokens cannot be used, or not changed like this; the message says why."""


class NoSuchToken(TokenError):
    """There is no token of that name."""


class Tokens:
    """The tokens of a head, in one file that appears whole and is changed under a lock.

    Methods raise TokenError for a file that is damaged or open to others, and OSError where it
    cannot be read or written.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    def begin(self) -> None:
        """At the first start make the owner's own token, an administrator's, in `Home.token`.

        It is made anew if that file has gone; others stay.
        """
        with self._locked():
            known = self._read()
            if self._home.tokens.exists() and self._home.token.exists():
                return
            name, text = _owner(), _new_text()
            # The text first: digests without any known token would lock everybody out.
            _write_private(self._home.token, f"{text}\n".encode())
            others = (token for token in known if token.name != name)
            self._write((*others, _token(name, Role.ADMIN, text)))

    def list(self) -> tuple[Token, ...]:
        """All tokens by name."""
        return tuple(sorted(self._read(), key=lambda token: token.name))

    def add(self, name: str, role: Role) -> str:
        """A new token; its text is returned, and kept nowhere. Raises TokenError for the name."""
        if not _NAME.fullmatch(name):
            raise TokenError(
                f"{name[:80]!r}: a token's name has 1 to 64 letters, digits and . _ @ -, "
                "and begins with a letter or digit"
            )
        text = _new_text()

        def change(known: tuple[Token, ...]) -> tuple[Token, ...]:
            if any(token.name == name for token in known):
                raise TokenError(f"there is a token {name} already: remove it first, or use it")
            if len(known) >= _MOST:
                raise TokenError(f"there are {_MOST} tokens already: remove some first")
            return (*known, _token(name, role, text))

        self._change(change)
        return text

    def remove(self, name: str) -> None:
        """Forget a token; it opens nothing any more. Raises NoSuchToken."""

        def change(known: tuple[Token, ...]) -> tuple[Token, ...]:
            left = tuple(token for token in known if token.name != name)
            if len(left) == len(known):
                names = ", ".join(sorted(token.name for token in known)) or "none"
                raise NoSuchToken(f"there is no token {name[:80]!r}; there are: {names}")
            return left

        self._change(change)

    def _change(self, change: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
        with self._locked():
            self._write(change(self._read()))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(lock_beside(self._home.tokens), "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # held for the time of one small write
            yield

    def _read(self) -> tuple[Token, ...]:
        path = self._home.tokens
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            return ()
        if mode & 0o077:
            raise TokenError(
                f"{path} is open to others (mode {stat.S_IMODE(mode):04o}); whoever wrote to it "
                f"could let anybody in. Look through it, then: chmod 600 {path}"
            )
        try:
            return _tokens(read_json(path))
        except (ValueError, TypeError, KeyError):
            raise TokenError(
                f"{path} is damaged, so nobody is let in. Repair it; or move it away together with "
                f"{self._home.token}: the next start of the controller makes new ones"
            ) from None

    def _write(self, tokens: tuple[Token, ...]) -> None:
        import json

        document = {"tokens": [{**asdict(one), "role": one.role.value} for one in tokens]}
        _write_private(self._home.tokens, json.dumps(document, indent=1).encode() + b"\n")


class Doorkeeper:
    """Tells whose a token is. A change of the file counts from the next request on."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._tokens = Tokens(home)
        self._seen: tuple[int, int, int] | None = None
        self._known: tuple[Token, ...] = ()

    def who(self, text: str) -> Token | None:
        """The token of that text; None if there is none, or the file cannot be used."""
        self._refresh()
        given = _digest(text)
        found = None
        for token in self._known:  # all of them, so that the time tells nothing
            if hmac.compare_digest(token.sha256, given):
                found = token
        return found

    def _refresh(self) -> None:
        try:
            status = os.stat(self._home.tokens)
            seen = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            if seen != self._seen:
                self._known = self._tokens.list()
                self._seen = seen
        except (OSError, TokenError):
            self._known, self._seen = (), None


def _tokens(document: Any) -> tuple[Token, ...]:
    """Raises ValueError, TypeError or KeyError for a document that is not ours."""
    found = tuple(
        Token(one["name"], Role(one["role"]), one["sha256"], float(one["created_at"]))
        for one in document["tokens"]
    )
    if not all(_NAME.fullmatch(one.name) and _DIGEST.fullmatch(one.sha256) for one in found):
        raise ValueError("a name or a digest that nobody wrote like this")
    return found


def _token(name: str, role: Role, text: str) -> Token:
    return Token(name, role, _digest(text), time.time())


def _new_text() -> str:
    return _PREFIX + secrets.token_urlsafe(32)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _owner() -> str:
    """Whoever runs this, by a name that a token may have."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = ""
    return name if _NAME.fullmatch(name) else f"uid{os.geteuid()}"


def _write_private(path: Path, data: bytes) -> None:
    """Write a file for its owner alone, whole or not at all. Raises OSError."""
    unfinished = aside(path)
    unfinished.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(unfinished, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
