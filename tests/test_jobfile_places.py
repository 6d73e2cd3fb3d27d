"""Overrides, paths inside a job, and files that hold no job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.jobfile import JobFileError, Problem, load, loads

BASE = """version: 1
name: job
module: train
resources: {device: cpu, ranks: 8}
"""


def problems(text: str, *overrides: str) -> tuple[Problem, ...]:
    """What is wrong with a text; fails if nothing is."""
    with pytest.raises(JobFileError) as caught:
        loads(text, overrides)
    return caught.value.problems


class TestOverrides:
    """`--set PATH=VALUE`."""

    def test_values_are_yaml(self) -> None:
        """An override is read as the file would be: numbers, lists, mappings."""
        job = loads(
            BASE,
            [
                "resources.ranks=4",
                "args.sides=[1, 2]",
                "args.note=a=b",
                "checkpoint={keep: 2}",
                "restart.budgets.oom=unlimited",
            ],
        )
        assert job.resources.ranks == 4
        assert job.argv_args == ("--sides=1,2", "--note=a=b")
        assert job.checkpoint.keep == 2

    def test_override_mends_the_file(self) -> None:
        """A wrong value in the file does not matter once it is overridden; the last one wins."""
        text = BASE.replace("8", "eight")
        job = loads(text, ["resources.ranks=2", "resources.ranks=4"])
        assert job.resources.ranks == 4

    def test_empty_section_can_be_filled(self) -> None:
        """A section that stands empty in the file takes an override."""
        assert loads(BASE + "env:\n", ["env.A=1"]).env == {"A": "1"}

    @pytest.mark.parametrize(
        ("override", "path", "words"),
        [
            ("resources.ranks=eight", "resources.ranks", "did you mean 8?"),
            ("resources.rank=8", "resources.rank", "did you mean ranks?"),
            ("restart.min_ranks=3", "restart.min_ranks", "a divisor of"),
            ("name.x=1", "name.x", "name is not a section"),
            ("args.a=", "args.a", "found nothing"),
            ("args.a={", "", "allowed: YAML"),
            ("args.a=1\n---\n2", "", "found a second document"),
            ("ranks", "", "allowed: PATH=VALUE"),
            ("=1", "", "allowed: PATH=VALUE"),
            ("a..b=1", "", "allowed: PATH=VALUE"),
        ],
    )
    def test_mistakes_name_the_override(self, override: str, path: str, words: str) -> None:
        """A problem that an override brings names it instead of a line."""
        (problem,) = problems(BASE, override)
        assert problem.path == path
        assert (problem.line, problem.override) == (None, override)
        assert words in str(problem)


class TestPlaces:
    """Paths, and what lies at them."""

    def test_workdir_starts_where_the_user_stands(self, tmp_path: Path) -> None:
        """A relative working directory starts at `cwd` and becomes absolute."""
        (tmp_path / "code").mkdir()
        assert loads(BASE, cwd=tmp_path).workdir == tmp_path
        assert loads(BASE + "workdir: code", cwd=tmp_path).workdir == tmp_path / "code"

    def test_secret(self, tmp_path: Path) -> None:
        """A secret is a path below the working directory; the job has nothing else of it."""
        secret = tmp_path / "token"
        secret.write_text("s3cret-value")
        secret.chmod(0o600)
        job = loads(BASE + "secrets: {TOKEN: token}", cwd=tmp_path)
        assert job.secrets == {"TOKEN": secret}

    def test_secret_at_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`~` is the user's home."""
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "token").touch(mode=0o600)
        (tmp_path / "token").write_text("s3cret-value")
        assert loads(BASE + "secrets: {T: ~/token}").secrets == {"T": tmp_path / "token"}

    def test_read_only_secret(self, tmp_path: Path) -> None:
        """A secret that not even its owner may write is as good."""
        secret = tmp_path / "token"
        secret.write_text("s3cret-value")
        secret.chmod(0o400)
        assert loads(BASE + f"secrets: {{T: {secret}}}").secrets == {"T": secret}

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o700, 0o604])
    def test_open_secret(self, tmp_path: Path, mode: int) -> None:
        """A secret that others may read is refused, with the command that mends it."""
        secret = tmp_path / "token"
        secret.touch()
        secret.chmod(mode)
        (problem,) = problems(BASE + f"secrets: {{T: {secret}}}")
        assert f"with mode {mode:04o}" in problem.found
        assert problem.hint == f"chmod 600 {secret}"

    def test_secret_and_variable_of_one_name(self, tmp_path: Path) -> None:
        """A name is either a secret or a variable."""
        secret = tmp_path / "token"
        secret.touch(mode=0o600)
        secret.write_text("s3cret-value")
        (problem,) = problems(BASE + f"env: {{T: a}}\nsecrets: {{T: {secret}}}")
        assert problem.path == "secrets.T"
        assert "a name that env has too" in problem.found


class TestFiles:
    """What is no job file at all."""

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "an empty file"),
            (b"# only a comment\n", "an empty file"),
            (b"- a\n", "a list of jobs is not read"),
            (b"text", "found 'text', allowed: a mapping"),
            (b"a: 1\nb: \xff\n", "job.yaml:2: found the byte 0xff, allowed: UTF-8"),
            (b"\na: \x00", "job.yaml:2: found special characters"),
            (b"a: 1" + b" " * (1 << 20), "a larger file"),
        ],
    )
    def test_content(self, tmp_path: Path, content: bytes, words: str) -> None:
        """Empty, binary, foreign or huge content is named for what it is."""
        file = tmp_path / "job.yaml"
        file.write_bytes(content)
        with pytest.raises(JobFileError) as caught:
            load(file)
        assert words in str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        """A file that is not there is said to be so."""
        with pytest.raises(JobFileError, match="No such file"):
            load(tmp_path / "absent.yaml")

    def test_directory(self, tmp_path: Path) -> None:
        """A directory is no job file."""
        with pytest.raises(JobFileError, match="found a directory, allowed: a file"):
            load(tmp_path)

    def test_pipe_does_not_block(self, tmp_path: Path) -> None:
        """A pipe without a writer is refused instead of waited for."""
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(JobFileError, match="allowed: a file"):
            load(tmp_path / "pipe")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_unreadable(self, tmp_path: Path) -> None:
        """A file without permission is said to be so."""
        file = tmp_path / "job.yaml"
        file.touch(mode=0o000)
        with pytest.raises(JobFileError, match="Permission denied"):
            load(file)

    def test_byte_order_mark(self, tmp_path: Path) -> None:
        """A byte order mark is passed over."""
        file = tmp_path / "job.yaml"
        file.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
        assert load(file).name == "job"
