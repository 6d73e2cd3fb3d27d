"""Tokens of a head: made once, kept as digests, readable to their owner alone."""

from __future__ import annotations

import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.layout import Home
from orchestrator.service.tokens import Doorkeeper, NoSuchToken, Role, TokenError, Tokens


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home where no controller was yet."""
    return Home(tmp_path / "home")


def owners(home: Home) -> str:
    """The text of the owner's token."""
    return home.token.read_text().strip()


def test_the_first_start_makes_the_owners_token(home: Home) -> None:
    """An administrator's, named after the user, in a file of its own; later starts keep it."""
    Tokens(home).begin()
    text = owners(home)
    assert len(text) == len("muster_") + 43 and text.startswith("muster_")
    (token,) = Tokens(home).list()
    assert token.role is Role.ADMIN and Doorkeeper(home).who(text) == token
    Tokens(home).begin()
    assert owners(home) == text


def test_files_are_private_and_hold_no_text_but_the_owners(home: Home) -> None:
    """0600, and of other tokens only what cannot be turned back."""
    tokens = Tokens(home)
    tokens.begin()
    text = tokens.add("ann", Role.SUBMIT)
    for path in (home.token, home.tokens):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = home.tokens.read_text()
    assert text not in kept and text[7:] not in kept and owners(home) not in kept
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_an_owner_who_lost_the_token_gets_another(home: Home) -> None:
    """The old one opens nothing any more; those of others stay."""
    tokens = Tokens(home)
    anns = tokens.add("ann", Role.READ)  # before any start
    tokens.begin()
    lost = owners(home)
    home.token.unlink()
    tokens.begin()
    door = Doorkeeper(home)
    assert door.who(lost) is None
    found = [door.who(text) for text in (owners(home), anns)]
    assert [token and token.role for token in found] == [Role.ADMIN, Role.READ]


def test_a_role_covers_those_before_it() -> None:
    """read < submit < admin."""
    covered = {(a.value, b.value) for a in Role for b in Role if a.covers(b)}
    assert covered == {
        ("read", "read"),
        ("submit", "read"),
        ("submit", "submit"),
        ("admin", "read"),
        ("admin", "submit"),
        ("admin", "admin"),
    }


@pytest.mark.parametrize("name", ["", "a b", "../x", "a\n", "-x", "é", "x" * 65, "a\0"])
def test_odd_names_are_refused(home: Home, name: str) -> None:
    """A token's name is a user's in lists and logs."""
    with pytest.raises(TokenError, match="1 to 64"):
        Tokens(home).add(name, Role.READ)


def test_names_are_unique_and_removed_by_name(home: Home) -> None:
    """A second one of a name is refused; removing what is not there names what is."""
    tokens = Tokens(home)
    first = tokens.add("ann", Role.READ)
    with pytest.raises(TokenError, match="already"):
        tokens.add("ann", Role.ADMIN)
    tokens.add("bob", Role.READ)
    with pytest.raises(NoSuchToken, match="ann, bob"):
        tokens.remove("carl")
    tokens.remove("ann")
    assert Doorkeeper(home).who(first) is None
    assert [token.name for token in tokens.list()] == ["bob"]


def test_a_doorkeeper_sees_changes(home: Home) -> None:
    """Without being told, from the next question on."""
    door, tokens = Doorkeeper(home), Tokens(home)
    assert door.who("muster_x") is None
    text = tokens.add("ann", Role.READ)
    assert door.who(text) is not None
    tokens.remove("ann")
    assert door.who(text) is None
    for odd in ("", "\0", "\udcff", text + "x", text[:-1], "x" * 100_000):
        assert door.who(odd) is None


def test_of_many_who_add_at_once_none_is_lost(home: Home) -> None:
    """The file changes under a lock."""
    gate = threading.Barrier(8)

    def add(number: int) -> str:
        gate.wait()
        return Tokens(home).add(f"user{number}", Role.READ)

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(add, range(8)))
    door = Doorkeeper(home)
    assert {token.name for text in texts if (token := door.who(text))} == {
        f"user{number}" for number in range(8)
    }


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"tokens": 1}',
        '{"tokens": [{"name": "a"}]}',
        '{"tokens": [{"name": "a", "role": "root", "sha256": "", "created_at": 1}]}',
        '{"tokens": [{"name": "a", "role": "admin", "sha256": "x", "created_at": 1}]}',
        '{"tokens": [{"name": 5, "role": "admin", "sha256": "x", "created_at": null}]}',
    ],
)
def test_a_damaged_record_is_told_and_opens_nothing(home: Home, content: str) -> None:
    """Nobody is let in by mistake; the message names the file and the way out."""
    Tokens(home).begin()
    home.tokens.write_text(content)
    with pytest.raises(TokenError, match=r"tokens\.json is damaged"):
        Tokens(home).begin()
    assert Doorkeeper(home).who(owners(home)) is None


def test_a_record_that_others_could_write_is_refused(home: Home) -> None:
    """Until its mode is right again."""
    Tokens(home).begin()
    home.tokens.chmod(0o660)
    with pytest.raises(TokenError, match="chmod 600"):
        Tokens(home).list()
    assert Doorkeeper(home).who(owners(home)) is None
    home.tokens.chmod(0o600)
    assert Doorkeeper(home).who(owners(home)) is not None


def test_a_kill_between_the_two_files_locks_nobody_out(home: Home) -> None:
    """The text is written first: without its digest the next start makes both anew."""
    Tokens(home).begin()
    home.tokens.unlink()
    Tokens(home).begin()
    assert Doorkeeper(home).who(owners(home)) is not None
    assert json.loads(home.tokens.read_text())["tokens"][0]["role"] == "admin"
