"""The link: whole messages over real sockets, whatever the pieces they come in."""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import link as module
from orchestrator.link import Link, LinkError, Message, listen
from tests.support_core import python, until

SPEAKER = """
import os, sys
from pathlib import Path
from orchestrator.link import Link
link = Link.dial(Path(sys.argv[1]))
for number in range(50):
    link.send({"number": number})
link.flush()
os._exit(9)
"""


@pytest.fixture
def pair() -> Iterator[tuple[Link, socket.socket]]:
    """One end as a link, the other as a bare socket."""
    ours, theirs = socket.socketpair()
    link = Link(ours)
    yield link, theirs
    link.close()
    theirs.close()


def test_messages_come_in_any_pieces(pair: tuple[Link, socket.socket]) -> None:
    """Cut into single bytes or glued together, messages arrive whole and in order."""
    link, peer = pair
    sent: list[Message] = [{"text": "é ✓"}, {"n": 1}, {"deep": {"list": [1, None]}}]
    raw = b"".join(json.dumps(message).encode() + b"\n" for message in sent)
    received: list[Message] = []
    for number in range(len(raw)):
        peer.sendall(raw[number : number + 1])
        received += link.receive()
    assert received == sent
    peer.sendall(raw)
    assert link.receive() == sent
    assert not link.closed


def test_nothing_to_receive_is_no_message(pair: tuple[Link, socket.socket]) -> None:
    """Receiving never waits; empty lines are nothing."""
    link, peer = pair
    assert link.receive() == []
    peer.sendall(b"\n\n")
    assert link.receive() == []


def test_the_last_words_are_heard(pair: tuple[Link, socket.socket]) -> None:
    """What a peer sent before it died is delivered with the news of its end; a half is not."""
    link, peer = pair
    peer.sendall(b'{"n":1}\n{"n":2}\n{"n":')
    peer.close()
    assert link.receive() == [{"n": 1}, {"n": 2}]
    assert link.closed
    assert link.receive() == []


def test_last_words_survive_an_unread_answer(pair: tuple[Link, socket.socket]) -> None:
    """A peer that dies without reading what it was sent has still said what it said."""
    link, peer = pair
    link.send({"unread": True})
    peer.sendall(b'{"n":1}\n')
    peer.close()
    link.send({"into": "the void"})
    assert link.receive() == [{"n": 1}]
    assert link.closed


@pytest.mark.parametrize("line", [b"{", b"[1]", b"1", b"null", b'"text"', b"\xff", b"\0\0\0\0\0"])
def test_what_is_no_message_is_an_error(pair: tuple[Link, socket.socket], line: bytes) -> None:
    """Anything but a JSON object is refused by name."""
    link, peer = pair
    peer.sendall(line + b"\n")
    with pytest.raises(LinkError, match="not a message"):
        link.receive()


def test_a_line_without_end_is_an_error(
    pair: tuple[Link, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer cannot make this end collect bytes without bound."""
    monkeypatch.setattr(module, "_LINE_LIMIT", 1000)
    link, peer = pair
    peer.sendall(b"x" * 999)
    assert link.receive() == []
    peer.sendall(b"x" * 2)
    with pytest.raises(LinkError, match="longer than 1000"):
        link.receive()


def test_sending_never_waits(pair: tuple[Link, socket.socket]) -> None:
    """What the socket does not take is kept, in order, and sent when the peer reads."""
    link, peer = pair
    for number in range(60):
        link.send({"number": number, "pad": "x" * 50_000})
    assert link.behind
    peer.setblocking(False)
    reader = Link(peer)
    received: list[Message] = []

    def all_there() -> bool:
        link.flush()
        received.extend(reader.receive())
        return len(received) == 60

    until(all_there, "sixty messages")
    assert [message["number"] for message in received] == list(range(60))
    assert not link.behind


def test_sending_to_the_dead_is_silent(pair: tuple[Link, socket.socket]) -> None:
    """That the peer is gone is learnt from reading."""
    link, peer = pair
    peer.close()
    for _ in range(3):
        link.send({"n": 1})
    assert link.receive() == []
    assert link.closed


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a socket can be; short enough for one."""
    with tempfile.TemporaryDirectory(prefix="link-") as directory:
        yield Path(directory) / "control.sock"


def test_a_process_dials_speaks_and_dies(path: Path) -> None:
    """Every message of a process that ended at once after sending arrives."""
    with listen(path) as listener:
        process = python(SPEAKER, str(path))
        listener.setblocking(True)
        listener.settimeout(20)
        connection, _ = listener.accept()
        assert process.wait(20) == 9
        link = Link(connection)
        assert [message["number"] for message in link.receive()] == list(range(50))
        assert link.closed
        link.close()


def test_the_socket_is_private(path: Path) -> None:
    """Only its owner may connect, and it is not inherited by what is started."""
    with listen(path) as listener:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert not os.get_inheritable(listener.fileno())


def test_dialling_nobody_is_an_error(path: Path) -> None:
    """A missing socket and one that nobody serves raise OSError."""
    with pytest.raises(OSError):
        Link.dial(path)
    listen(path).close()
    with pytest.raises(OSError):
        Link.dial(path)
