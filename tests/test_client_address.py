"""Where a client looks for its controller, what it shows to whom, and how long it tries."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import processes
from orchestrator.client import BadAddress, Client, ClientError, NoToken, Problem, Unreachable, find
from orchestrator.client.patience import Patience
from orchestrator.layout import write_json

TOKEN = "muster_" + "x" * 43


def head_file(home: Path, **changes: Any) -> dict[str, str]:
    """A home whose controller is this very process, but for `changes`; the environment for it."""
    me = processes.identify(os.getpid())
    assert me is not None
    home.mkdir(exist_ok=True)
    write_json(home / "head.json", {"url": "http://127.0.0.1:9", **asdict(me), **changes})
    (home / "token").write_text(f"{TOKEN}\n")
    return {"MUSTER_HOME": str(home)}


def test_a_home_names_its_controller(tmp_path: Path) -> None:
    """Address and token come from the home; the token is in no text of the address."""
    address = find(head_file(tmp_path))
    assert (address.url, address.token) == ("http://127.0.0.1:9", TOKEN)
    assert TOKEN not in repr(address)


def test_the_environment_goes_first(tmp_path: Path) -> None:
    """MUSTER_URL names another controller, MUSTER_TOKEN or MUSTER_TOKEN_FILE its token."""
    environment = head_file(tmp_path) | {"MUSTER_URL": "https://gpu.example/muster/"}
    assert find(environment).url == "https://gpu.example/muster"
    assert find(environment).token == TOKEN
    (tmp_path / "other").write_text("muster_other\n")
    environment |= {"MUSTER_TOKEN_FILE": str(tmp_path / "other")}
    assert find(environment).token == "muster_other"
    assert find(environment | {"MUSTER_TOKEN": "muster_mine"}).token == "muster_mine"


def test_without_a_controller_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    """Where none was ever started a client says so at once, and how to start one."""
    told: list[str] = []
    client = Client.from_environment({"MUSTER_HOME": str(tmp_path)}, told=told.append)
    with pytest.raises(Unreachable, match="`muster up` starts one") as error:
        client.health()
    assert error.value.hopeless
    assert told == []


def test_the_successor_of_a_dead_controllers_port_is_shown_no_token(tmp_path: Path) -> None:
    """Another process may have its port by now: nobody is asked there."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.settimeout(0)
        url = f"http://127.0.0.1:{stranger.getsockname()[1]}"
        for changes, hopeless in (({"start_time": 1}, False), ({"boot_id": "before"}, True)):
            environment = head_file(tmp_path, url=url, **changes)
            with pytest.raises(Unreachable, match="is gone") as error:
                Client.from_environment(environment, patience=0.3).health()
            assert error.value.hopeless is hopeless
        with pytest.raises(BlockingIOError):
            stranger.accept()


@pytest.mark.parametrize(
    "changes", [{"pid": None}, {"pid": "x"}, {"start_time": []}, {"url": "file:///etc"}, {"url": 3}]
)
def test_what_no_controller_wrote_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A head.json with anything else in it is an error that names the file."""
    with pytest.raises(BadAddress, match=r"head\.json"):
        find(head_file(tmp_path, **changes))


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1))
def test_any_address_is_taken_or_refused(text: str) -> None:
    """MUSTER_URL may hold anything: it is an address of HTTP, or an error that names it."""
    try:
        address = find({"MUSTER_URL": text, "MUSTER_TOKEN": TOKEN})
    except BadAddress as error:
        assert "MUSTER_URL" in str(error)
    else:
        assert address.url.startswith(("http://", "https://"))


@pytest.mark.parametrize("text", ["", " \n", "two words", "ä", "a\nb", "a\x00b"])
def test_what_is_no_token_is_not_sent(tmp_path: Path, text: str) -> None:
    """An empty or garbled token is an error that names its file and not its text."""
    environment = head_file(tmp_path)
    (tmp_path / "token").write_text(text)
    with pytest.raises(NoToken, match="/token holds no token"):
        find(environment)
    (tmp_path / "token").unlink()
    with pytest.raises(NoToken, match="MUSTER_TOKEN_FILE"):
        find(environment)


@given(st.integers(400, 599), st.binary(max_size=400))
def test_any_refusal_can_be_told(status: int, body: bytes) -> None:
    """Whatever stands between client and controller may answer: it becomes a short sentence."""
    problem = Problem.of(status, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, body)
    assert problem.status == status
    assert 0 < len(str(problem)) < 2000
    assert problem.retry_after is None


class Answers:
    """Fails as often as it is told to, then answers."""

    def __init__(self, *failures: ClientError) -> None:
        self.failures = list(failures)
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return "here"


def test_one_broken_connection_is_not_worth_a_word() -> None:
    """A single failure is repeated in silence, several are told, with the end of it."""
    told: list[str] = []
    patience = Patience(5.0, told.append)
    gone = Unreachable("the controller is gone")
    assert patience.until_answered(Answers(gone)) == "here"
    assert told == []
    assert patience.until_answered(Answers(gone, gone)) == "here"
    assert told == ["the controller is gone; trying again for 5 s", "the controller answers again"]


def test_patience_ends() -> None:
    """After its time the failure itself is raised; the next question has all the time again."""
    patience = Patience(0.2, lambda _: None)
    ask = Answers(*[Unreachable("gone")] * 50)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(Unreachable, match="gone"):
            patience.until_answered(ask)
        assert time.monotonic() - began >= 0.2


def test_only_refusals_for_now_are_repeated() -> None:
    """A full or ending controller (503 with Retry-After) is asked again, unless for an order."""
    full = Problem(503, "Service Unavailable", "the store is full", retry_after=0.0)
    patience = Patience(5.0, lambda _: None)
    assert patience.until_answered(Answers(full)) == "here"
    for failure, again in ((full, False), (Problem(404, "Not Found"), True)):
        ask = Answers(failure)
        with pytest.raises(Problem):
            patience.until_answered(ask, again=again)
        assert ask.asked == 1


def test_a_controller_that_was_there_may_come_back() -> None:
    """No sign of a controller is the end for a new client, and an outage for one that met it."""
    patience = Patience(5.0, lambda _: None)
    none = Unreachable("no controller runs here", hopeless=True)
    with pytest.raises(Unreachable):
        patience.until_answered(Answers(none))
    assert patience.until_answered(Answers()) == "here"
    assert patience.until_answered(Answers(none)) == "here"


def test_the_client_is_standard_library_and_little_of_ours() -> None:
    """Importing it costs a command no time: no library of others, no store, no job files."""
    program = "import sys, orchestrator.client; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", _on_path(program)], capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.partition(".")[0] in ("orchestrator", "cluster")}
    assert {name for name in ours if not name.startswith("orchestrator.client")} == {
        "orchestrator",
        "orchestrator.layout",
        "orchestrator.processes",
        "orchestrator.states",
    }
    others = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert {name for name in others if not name.startswith(("_", "orchestrator"))} <= {
        "sitecustomize"
    }


def _on_path(program: str) -> str:
    root = str(Path(__file__).resolve().parent.parent)
    return f"import sys; sys.path.insert(0, {root!r}); {program}"
