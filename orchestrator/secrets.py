"""Secrets of a job: what only its ranks are given, and what keeps it out of our own words.

A job names files; plans, messages and records hold their paths. The process that starts a rank
reads them last, and the rank has their content in its environment. What a rank prints is its own
affair; what we record of it (errors, ends of logs, reasons) goes through a `Redactor`.
Standard library only: supervisor, fork server and ranks use it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

NAMES = "MUSTER_SECRETS"
"""The variable that tells a rank which of its variables are secrets: their names, comma between."""

MAX_BYTES = 64 << 10
SHORTEST = 6
"""Characters: a shorter value would be found, and replaced, in any text."""

ALLOWED = f"a file of your own with mode 0600, {SHORTEST} characters to 64 KiB of text"


class Unusable(OSError):
    """A file that is no secret, in words without its content."""

    exit_code = 78  # a mistake of the user: another attempt would fail alike


def read(paths: Mapping[str, str | os.PathLike[str]]) -> dict[str, str]:
    """The values by variable. Raises Unusable with every file that is wrong."""
    values, wrong = {}, []
    for name, path in paths.items():
        try:
            values[name] = read_one(path)
        except Unusable as error:
            wrong.append(f"secret {name}: {error.strerror}, allowed: {ALLOWED}")
    if wrong:
        raise Unusable(errno.EACCES, "; ".join(wrong))
    return values


def read_one(path: str | os.PathLike[str]) -> str:
    """The text of a file, without line breaks at its end, as `$(cat FILE)` gives it.

    Raises Unusable.
    """
    shown = repr(os.fspath(path))
    try:
        raw, refused = _content(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unusable(errno.EACCES, f"{shown} ({reason})") from None
    text, refused = ("", refused) if refused else _decoded(raw)
    if refused:
        raise Unusable(errno.EACCES, f"{shown}{refused}")
    return text


def _content(path: str | os.PathLike[str]) -> tuple[bytes, str]:
    """What the file holds, or why it is not read. Raises OSError, ValueError."""
    # A pipe would block without O_NONBLOCK; what is checked is what is read.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        refused = _refused(os.fstat(descriptor))
        if refused:
            return b"", refused
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1), ""
    finally:
        os.close(descriptor)


def _refused(status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return ", which is not a file"
    if status.st_uid != os.geteuid():
        return f", which belongs to user {status.st_uid}"
    mode = stat.S_IMODE(status.st_mode)
    return f" with mode {mode:04o}" if mode & 0o177 else ""


def _decoded(raw: bytes) -> tuple[str, str]:
    """The value, or why there is none; decoding errors would quote what they could not read."""
    if len(raw) > MAX_BYTES:
        return "", ", which is larger than 64 KiB"
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        return "", ", which is not UTF-8 text"
    if "\0" in text:
        return "", ", which has a NUL byte"
    return (text, "") if len(text) >= SHORTEST else ("", f", shorter than {SHORTEST} characters")


class Redactor:
    """Puts `[secret NAME]` where a text holds a secret, plainly or in a common encoding.

    Hides what stands there as it is, in base64, percent or hexadecimal encoding, or escaped as in
    JSON and Python; of several lines each by itself too.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        forms = {form: name for name, value in values.items() for form in _forms(value)}
        self._forms = sorted(forms.items(), key=lambda entry: (-len(entry[0]), entry[0]))

    @classmethod
    def of(cls, paths: Mapping[str, str | os.PathLike[str]]) -> Redactor:
        """For the secrets in these files, as far as they can be read."""
        return cls(dict(_readable(paths)))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Redactor:
        """For the secrets of the rank with this environment."""
        names = filter(None, environment.get(NAMES, "").split(","))
        return cls({name: environment[name] for name in names if name in environment})

    @property
    def longest(self) -> int:
        """Characters of the longest text that is looked for; 0: there are no secrets."""
        return len(self._forms[0][0]) if self._forms else 0

    def text(self, text: str) -> str:
        """The text without secrets."""
        for form, name in self._forms:
            if form in text:
                text = text.replace(form, f"[secret {name}]")
        return text

    def value(self, value: Any) -> Any:
        """A JSON value with every text in it, keys too, without secrets."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        return [self.value(item) for item in value] if isinstance(value, list) else value


def _readable(paths: Mapping[str, str | os.PathLike[str]]) -> Iterator[tuple[str, str]]:
    for name, path in paths.items():
        try:
            yield name, read_one(path)
        except Unusable:
            continue


def _forms(value: str) -> set[str]:
    lines = (line.strip() for line in value.splitlines())
    parts = {value, value.strip(), *lines}
    forms = (form for part in parts if len(part) >= SHORTEST for form in _encodings(part))
    return {form for form in forms if len(form) >= SHORTEST}


def _encodings(text: str) -> Iterable[str]:
    # Imported only where there are secrets: every training script imports this module.
    import json
    from urllib.parse import quote, quote_plus

    raw = text.encode(errors="surrogateescape")
    percent = [quote(raw, safe=""), quote(raw), quote_plus(raw)]
    escaped = [json.dumps(text), json.dumps(text, ensure_ascii=False), repr(text), repr(raw)[1:]]
    return (
        text,
        raw.hex(),
        raw.hex().upper(),
        *percent,
        *map(_lower_percent, percent),
        *(form[1:-1] for form in escaped),
        *_base64(raw),
    )


def _lower_percent(text: str) -> str:
    """`%2F` as `%2f`: both are in use."""
    first, *rest = text.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in rest)])


def _base64(raw: bytes) -> Iterator[str]:
    """The characters that depend on `raw` alone, wherever in encoded bytes it begins."""
    from base64 import b64encode, urlsafe_b64encode

    for before in range(3):
        begin, end = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(b"\0" * before + raw).decode()[begin:end]
