"""What around a controller would end it: told from values, read from files of other machines."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.layout import Home
from orchestrator.service.surroundings import Surroundings, look, objections, warnings

PERSON = Surroundings("ann", 1000, "/runs", logind=True, session=True)


def test_a_machine_where_all_is_well_is_silent() -> None:
    """No logind, nothing to say."""
    assert warnings(replace(PERSON, logind=False)) == objections(PERSON) == ()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, True),
        ({"lingering": True}, False),
        ({"remove_ipc": False}, False),
        ({"uid": 999}, False),
        ({"uid": 0, "user": "root"}, False),
        ({"logind": False}, False),
        ({"session": False}, True),
    ],
)
def test_shared_memory_that_goes_at_logout_is_told(changed: dict[str, object], told: bool) -> None:
    """For an ordinary user that does not linger; the way out is a command."""
    found = warnings(replace(PERSON, **changed))
    assert any("loginctl enable-linger ann" in line for line in found) is told
    assert len(found) == told


def test_a_login_that_takes_its_processes_along_is_told() -> None:
    """Only of a controller inside one: a service's are left alone."""
    strict = replace(PERSON, kill_processes=True, lingering=True)
    assert "KillUserProcesses" in "".join(warnings(strict))
    assert warnings(replace(strict, session=False)) == ()


def test_listening_to_the_world_is_told() -> None:
    """Tokens would travel as they are."""
    assert "TLS" in "".join(warnings(replace(PERSON, logind=False, loopback=False)))


def test_runs_that_cannot_be_written_are_an_objection(tmp_path: Path) -> None:
    """With the reason of the system, and the variable that moves them."""
    (tmp_path / "runs").write_text("a file")
    (told,) = objections(look(Home(tmp_path)))
    assert "MUSTER_HOME" in told and str(tmp_path / "runs") in told
    assert objections(look(Home(tmp_path / "other"))) == ()
    assert list((tmp_path / "other" / "runs").iterdir()) == []


def machine(root: Path, files: dict[str, str]) -> Surroundings:
    """What is read of a machine that has these files."""
    for name in ("run/systemd/system", "run/systemd/seats"):
        (root / name).mkdir(parents=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return look(Home(root / "home"), root=root)


def test_logind_is_as_it_comes_without_a_file(tmp_path: Path) -> None:
    """RemoveIPC=yes and KillUserProcesses=no are logind.conf(5)'s defaults."""
    found = machine(tmp_path, {"proc/self/cgroup": "0::/user.slice/session-3.scope\n"})
    assert (found.logind, found.remove_ipc, found.kill_processes) == (True, True, False)
    assert found.session and not found.lingering


def test_the_last_drop_in_by_name_counts(tmp_path: Path) -> None:
    """Behind the first main file; one in /etc hides its namesake; oddities are passed over."""
    found = machine(
        tmp_path,
        {
            "etc/systemd/logind.conf": "[Login]\n#RemoveIPC=yes\nRemoveIPC=no\nodd\n",
            "etc/systemd/logind.conf.d/00.conf": "[Login]\nKillExcludeUsers=\n",
            "usr/lib/systemd/logind.conf": "[Login]\nRemoveIPC=yes\n",
            "usr/lib/systemd/logind.conf.d/10-a.conf": "[Login]\nKillUserProcesses=yes\n",
            "etc/systemd/logind.conf.d/10-a.conf": "[Login]\nKillUserProcesses=1\n",
            "run/systemd/logind.conf.d/05-b.conf": "[Login]\nKillUserProcesses=no\n",
            "run/systemd/logind.conf.d/90-c.conf": "no section at all\n",
        },
    )
    assert (found.remove_ipc, found.kill_processes) == (False, True)


def test_lingering_and_exclusion_are_by_name(tmp_path: Path) -> None:
    """As loginctl and KillExcludeUsers have them."""
    user = look(Home(tmp_path / "other")).user
    found = machine(
        tmp_path,
        {
            f"var/lib/systemd/linger/{user}": "",
            "etc/systemd/logind.conf": f"[Login]\nKillUserProcesses=yes\nKillExcludeUsers={user}\n",
        },
    )
    assert found.lingering and not found.kill_processes
    assert found.uid == os.geteuid()
