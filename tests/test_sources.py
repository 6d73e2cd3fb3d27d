"""The digest of a job's code: it changes when, and only when, the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.sources import digest
from orchestrator.spec import JobSpec
from tests.support_core import job

COMMAND = """
version: 1
name: small
command: [python, train.py, --lr=0.1]
workdir: {workdir}
resources: {{device: cpu, ranks: 2}}
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package `train` with a subpackage."""
    (tmp_path / "train" / "deep").mkdir(parents=True)
    for name in ("__init__.py", "loop.py", "deep/__init__.py", "deep/net.py"):
        (tmp_path / "train" / name).write_text(f"# {name}\n")
    return tmp_path / "train"


def module_job(workdir: Path) -> JobSpec:
    """A job that runs `train`."""
    return job(f"workdir={workdir}")


def command_job(workdir: Path) -> JobSpec:
    """A job that runs a script."""
    return job(text=COMMAND.format(workdir=workdir))


def test_the_same_code_has_the_same_digest(package: Path) -> None:
    """Nothing but the files counts: not their times, not what is compiled from them."""
    before = digest(module_job(package.parent))
    assert len(before) == 64
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "loop.py").write_text("x")
    (package / "data.bin").write_bytes(b"x")
    (package / ".hidden.py").write_text("x")
    (package / "loop.py").touch()
    assert digest(module_job(package.parent)) == before


@pytest.mark.parametrize("name", ["loop.py", "deep/net.py"])
def test_a_changed_file_is_noticed(package: Path, name: str) -> None:
    """One byte anywhere in the package."""
    before = digest(module_job(package.parent))
    (package / name).write_text("# changed\n")
    assert digest(module_job(package.parent)) != before


def test_new_renamed_and_removed_files_are_noticed(package: Path) -> None:
    """Names count as well as contents."""
    seen = {digest(module_job(package.parent))}
    (package / "new.py").write_text("")
    seen.add(digest(module_job(package.parent)))
    (package / "new.py").rename(package / "newer.py")
    seen.add(digest(module_job(package.parent)))
    (package / "loop.py").unlink()
    seen.add(digest(module_job(package.parent)))
    assert len(seen) == 4


def test_a_single_file_module(tmp_path: Path) -> None:
    """A module that is one file is that file; its neighbours do not count."""
    (tmp_path / "train.py").write_text("1")
    before = digest(module_job(tmp_path))
    (tmp_path / "other.py").write_text("x")
    assert digest(module_job(tmp_path)) == before
    (tmp_path / "train.py").write_text("2")
    assert digest(module_job(tmp_path)) != before


def test_scripts_and_their_neighbours(tmp_path: Path) -> None:
    """A command's script imports what lies beside it."""
    (tmp_path / "train.py").write_text("import helper")
    (tmp_path / "helper.py").write_text("1")
    before = digest(command_job(tmp_path))
    assert len(before) == 64
    (tmp_path / "helper.py").write_text("2")
    assert digest(command_job(tmp_path)) != before


def test_unknown_sources_have_no_digest(tmp_path: Path) -> None:
    """A program that is no Python of the job's own cannot be watched."""
    text = COMMAND.format(workdir=tmp_path).replace("python, train.py, --lr=0.1", "sleep, '1'")
    assert digest(job(text=text)) == ""


def test_a_job_below_an_installed_place_is_watched_too(tmp_path: Path) -> None:
    """What is skipped is skipped below the package, not above it."""
    package = tmp_path / "site-packages" / "train"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("1")
    before = digest(module_job(package.parent))
    (package / "__init__.py").write_text("2")
    assert digest(module_job(package.parent)) != before
