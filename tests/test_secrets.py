"""Secrets reach the ranks, and nothing that muster writes, prints or passes on."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import pickle
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import secrets
from orchestrator.evidence import collect
from orchestrator.gang import Gang
from orchestrator.health import Sign, Suspect
from orchestrator.jobfile import JobFileError, loads
from orchestrator.layout import RunDirectory, read_json, write_json
from orchestrator.ledger import Ledger
from orchestrator.plan import written_down
from orchestrator.rank import Rank
from orchestrator.secrets import NAMES, Redactor, Unusable
from orchestrator.status import _rank_from_disk
from tests.runs import SCRIPTS, Job, muster, poll, worker_job
from tests.test_plan import plan as planned
from tests.test_supervisor import Node

SECRET = "tok/en+ s3cr3t=é"
OTHER = "first line of a key\nsecond line of it"


def write_secret(path: Path, content: bytes = SECRET.encode(), mode: int = 0o600) -> Path:
    """A file with a secret."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


def encodings(value: str) -> set[str]:
    """The ways in which a value could have got away, made otherwise than the module does."""
    raw = value.encode()
    shifted = {
        base64.b64encode(b"x" * n + raw).decode()[-(-n * 8 // 6) : (n + len(raw)) * 8 // 6]
        for n in range(3)
    }
    urls = {one.replace("+", "-").replace("/", "_") for one in shifted}
    return {value, raw.hex(), quote(value, safe=""), json.dumps(value)[1:-1], *shifted, *urls}


def assert_absent(text: str, where: object, value: str = SECRET) -> None:
    """Fails where the value stands in any encoding."""
    found = [form for form in encodings(value) if form in text]
    assert not found, f"{where}: {found}"


class TestFiles:
    """Which files are secrets."""

    def test_values(self, tmp_path: Path) -> None:
        """A value is the file's text as `$(cat FILE)` gives it."""
        one = write_secret(tmp_path / "one", b"value-1\r\n\n")
        two = write_secret(tmp_path / "two", b"a\nbb\nccc", 0o400)
        assert secrets.read({"A": one, "B": str(two)}) == {"A": "value-1", "B": "a\nbb\nccc"}

    def test_largest(self, tmp_path: Path) -> None:
        """64 KiB are read, a byte more is refused."""
        path = write_secret(tmp_path / "one", b"x" * (64 << 10))
        assert len(secrets.read_one(path)) == 64 << 10
        write_secret(path, b"x" * (64 << 10) + b"x")
        with pytest.raises(Unusable, match="larger than 64 KiB"):
            secrets.read_one(path)

    @pytest.mark.parametrize(
        ("content", "mode", "words"),
        [
            (b"\xffsecret", 0o600, "not UTF-8"),
            (b"sec\0ret", 0o600, "NUL"),
            (b"short", 0o600, "shorter than 6"),
            (b"short\n\n\n", 0o600, "shorter than 6"),
            (b"", 0o600, "shorter than 6"),
            (b"s3cret-x", 0o640, "mode 0640"),
            (b"s3cret-x", 0o604, "mode 0604"),
            (b"s3cret-x", 0o700, "mode 0700"),
        ],
    )
    def test_refused(self, tmp_path: Path, content: bytes, mode: int, words: str) -> None:
        """What is no secret is told without a byte of its content."""
        path = write_secret(tmp_path / "token", content, mode)
        with pytest.raises(Unusable, match=words) as caught:
            secrets.read_one(path)
        assert str(path) in str(caught.value)
        assert "ret" not in str(caught.value).replace(str(path), "")
        assert caught.value.__cause__ is None

    def test_not_a_file(self, tmp_path: Path) -> None:
        """Directories, pipes, devices and names that cannot be are refused; nothing waits."""
        os.mkfifo(tmp_path / "pipe", 0o600)
        for path in (tmp_path, tmp_path / "pipe", "/dev/null", tmp_path / "absent", "a\0b"):
            with pytest.raises(Unusable):
                secrets.read_one(path)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_of_another(self, tmp_path: Path) -> None:
        """A file of another user is refused."""
        path = write_secret(tmp_path / "token")
        os.chown(path, 12345, -1)
        with pytest.raises(Unusable, match="belongs to user 12345"):
            secrets.read_one(path)

    def test_all_at_once(self, tmp_path: Path) -> None:
        """Every wrong file is named, at its place in the job file and at the start."""
        good = write_secret(tmp_path / "good")
        short = write_secret(tmp_path / "short", b"abc")
        text = f"""version: 1
name: job
module: train
resources: {{device: cpu, ranks: 1}}
secrets:
  A: {good}
  B: {short}
  C: {tmp_path}/absent
"""
        with pytest.raises(JobFileError) as caught:
            loads(text)
        assert [problem.line for problem in caught.value.problems] == [7, 8]
        with pytest.raises(Unusable, match=r"secret B: .*shorter.*; secret C: .*No such file"):
            secrets.read({"A": good, "B": short, "C": tmp_path / "absent"})


class TestRedactor:
    """What is found in a text, and what it becomes."""

    @pytest.mark.parametrize("value", [SECRET, "plain-token", 'q"uo\\te\n', "päßwörd", "0" * 6])
    def test_encodings(self, value: str) -> None:
        """A value is hidden plainly, escaped, and inside other encoded text."""
        redact = Redactor({"S3_TOKEN": value}).text
        for form in encodings(value.strip()):
            assert redact(f"<{form}>") == "<[secret S3_TOKEN]>"
        basic = base64.b64encode(f"user:{value}@host".encode()).decode()
        assert_absent(redact(f"Authorization: Basic {basic}"), "base64", value.strip())
        assert_absent(redact(f"{value!r} {json.dumps(value)}"), "escaped", value.strip())
        assert_absent(redact(quote(value).replace("%", "%25").replace("%25", "%")), "url", value)

    @settings(deadline=None)
    @given(st.text(min_size=6, max_size=30), st.text(max_size=9), st.text(max_size=9))
    def test_any_value(self, value: str, before: str, after: str) -> None:
        """No value is left in any text that it is put into."""
        value = value.replace("\0", "0").encode(errors="replace").decode()
        redact = Redactor({"T": value}).text
        assert value not in redact(before + value + after).replace("[secret T]", "")

    def test_lines(self) -> None:
        """A secret of several lines is hidden line by line too."""
        redacted = Redactor({"KEY": OTHER}).text("log: second line of it, alone")
        assert redacted == "log: [secret KEY], alone"

    def test_longest_first(self) -> None:
        """Of secrets inside one another the longer is hidden whole."""
        redactor = Redactor({"A": "abcdef", "B": "abcdef-ghi"})
        assert redactor.text("abcdef-ghi abcdef") == "[secret B] [secret A]"

    def test_json_values(self) -> None:
        """Records are redacted at every depth, and other values stay."""
        redactor = Redactor({"A": "abcdef"})
        record = {"abcdef": ["xabcdefx", 5, None, {"a": "abcdef"}], "b": True}
        assert redactor.value(record) == {
            "[secret A]": ["x[secret A]x", 5, None, {"a": "[secret A]"}],
            "b": True,
        }

    def test_without_secrets(self) -> None:
        """Where there are none, texts stay as they are."""
        assert Redactor({}).text("abc") == "abc"
        assert Redactor.from_environment({NAMES: ""}).longest == 0

    def test_from_files(self, tmp_path: Path) -> None:
        """What can be read is known; a file that is gone is no reason to tell the others."""
        paths = {"A": write_secret(tmp_path / "a"), "B": tmp_path / "absent"}
        assert Redactor.of(paths).text(SECRET) == "[secret A]"


def test_a_rank_keeps_secrets_out_of_its_records(tmp_path: Path) -> None:
    """Error file and reports of a rank hold the names of secrets, however long the message."""
    rank = Rank(
        {
            "MUSTER_JOB": "job",
            "MUSTER_RUN_DIR": str(tmp_path),
            "MUSTER_ATTEMPT": "1",
            "MUSTER_ERROR_FILE": str(tmp_path / "error.json"),
            NAMES: "S3_TOKEN,GONE",
            "S3_TOKEN": SECRET,
        }
    )
    RunDirectory(tmp_path).attempt(1).reports.mkdir(parents=True)
    rank.report("result", f"done with {SECRET}")
    for pad in (0, 16_370, 16_384 - len(SECRET) // 2):
        try:
            raise ValueError("x" * pad + SECRET + "y" * 20_000) from KeyError(SECRET)
        except ValueError as error:
            rank.error(type(error), error, error.__traceback__)
        text = (tmp_path / "error.json").read_text()
        assert_absent(text, "error file")
        assert SECRET[:8] not in text
        assert json.loads(text)["type"] == "ValueError"
    report = next(RunDirectory(tmp_path).attempt(1).reports.iterdir())
    assert report.read_text() == "done with [secret S3_TOKEN]"


@pytest.mark.parametrize("missing", range(0, len(SECRET.encode())))
def test_a_log_cut_in_a_secret(tmp_path: Path, missing: int) -> None:
    """A secret that the beginning of a log's end cuts in two is left out."""
    files = RunDirectory(tmp_path).attempt(1)
    files.create()
    log = files.log(0)
    redactor = Redactor({"T": SECRET})
    size = (64 << 10) + 4 * redactor.longest
    rest = size - len(SECRET.encode()) + missing
    log.write_bytes(b"a" * 50 + SECRET.encode() + b"b" * rest)
    found = collect(
        Suspect(0, 1.0, Sign.EXIT, "left"),
        None,
        files,
        redactor,
        stepped_before=False,
        lived=1.0,
        oom_killed=False,
    )
    assert set(found.log) <= {"b"}
    assert len(found.log) >= 60_000


def job_with(tmp_path: Path, **fields: object) -> Job:
    """A job of two ranks with two secrets."""
    code = tmp_path / "code"
    code.mkdir()
    paths = {
        "S3_TOKEN": str(write_secret(tmp_path / "s3", SECRET.encode() + b"\n")),
        "KEY": str(write_secret(tmp_path / "key", OTHER.encode())),
    }
    (code / "leaky.py").write_text((SCRIPTS / "leaky.py").read_text())
    program = {"command": [sys.executable, str(code / "leaky.py")], "launch": {"mode": "none"}}
    given = {"workdir": str(code), "secrets": paths, **fields}
    job = worker_job(tmp_path, **{**program, **given})  # type: ignore[arg-type]
    if "module" in fields:
        document = yaml.safe_load(job.file.read_text())
        del document["command"]
        job.file.write_text(yaml.safe_dump(document))
    return job


def texts_of(job: Job) -> Iterator[tuple[Path, str]]:
    """Every file of a run but what its ranks themselves printed."""
    for path in job.run_dir.rglob("*"):
        if path.is_file() and not (path.parent.name == "logs" and path.name.startswith("rank-")):
            yield path, path.read_bytes().decode(errors="replace")


class Watch:
    """Looks at command lines and environments of all processes until it is told to end."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.having: set[bytes] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.wait(0.02):
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    with contextlib.suppress(OSError):
                        line = (entry / "cmdline").read_bytes()
                        self.seen.add(line)
                        if SECRET.encode() in (entry / "environ").read_bytes():
                            self.having.add(line)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


FORKED: dict[str, object] = {"module": "leaky", "launch": {"mode": "none", "preload": ["json"]}}


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, FORKED], ids=["spawned", "forked"])
def test_a_leaky_script(tmp_path: Path, fields: dict[str, object]) -> None:
    """A script that prints its secrets and dies of them: they stand in its own logs alone."""
    job = job_with(tmp_path, **fields)
    plan = muster("plan", job.file, "--json")
    with Watch() as watch:
        done = job.run()
    assert done.code == 1
    for rank in range(2):
        log = (job.run_dir / f"attempts/001/logs/rank-{rank}.log").read_text()
        assert SECRET in log, "the ranks have them"
        assert OTHER in log
    [incident] = job.incidents()
    assert "[secret S3_TOKEN]" in incident["cause"]
    told = {
        "plan": plan.text,
        "output": done.text,
        **{
            name: muster(name, job.run_dir, "--json").text
            for name in ("status", "events", "incidents")
        },
        "shown": muster("status", job.run_dir).text + muster("incidents", job.run_dir).text,
        "argv": b"\n".join(watch.seen).decode(errors="replace"),
        **{str(path): text for path, text in texts_of(job)},
    }
    assert "S3_TOKEN" in told["plan"]
    assert len(watch.having) == (0 if fields else 1), "ranks that were forked show nothing"
    assert all(b"leaky.py" in line for line in watch.having)
    assert {"plan.json", "events.jsonl", "supervisor.log"} <= {Path(name).name for name in told}
    for where, text in told.items():
        assert_absent(text, where)
        for line in OTHER.splitlines():
            assert_absent(text, where, line)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A run with a supervisor that has said hello."""
    with tempfile.TemporaryDirectory(prefix="sup-", ignore_cleanup_errors=True) as base:
        made = Node(tmp_path, Path(base))
        try:
            yield made
        finally:
            made.end()


TELL = "import os, time; print(os.environ['TOKEN'], flush=True); time.sleep(600)"


def test_ranks_alone_have_them(node: Node, tmp_path: Path) -> None:
    """Started plainly or forked, a rank has the value; who started it and the scheduler do not."""
    paths = {"TOKEN": str(write_secret(tmp_path / "token"))}
    node.warm("json")
    node.start(
        node.plan(None),
        node.plan(0, TELL, secrets=paths),
        node.forked(1, TELL, secrets=paths),
    )
    poll(lambda: node.log(0) == node.log(1) == f"{SECRET}\n", what="both ranks")
    having = [pid for pid, environment in environments() if SECRET.encode() in environment]
    assert having == [node.of_rank("started", 0)["pid"]]  # a forked one has it in memory alone


def test_an_unusable_secret_starts_no_rank(node: Node, tmp_path: Path) -> None:
    """The reason is told for either way of starting, as a mistake that is not to be retried."""
    paths = {"TOKEN": str(write_secret(tmp_path / "token", mode=0o644)), "B": "/absent"}
    node.warm("json")
    node.start(node.plan(0, TELL, secrets=paths), node.forked(1, TELL, secrets=paths))
    failed = node.of_rank("start_failed", 0)
    assert failed["errno"] == errno.EACCES
    for reason in (failed["reason"], error_of(node, 1)):
        assert "secret TOKEN" in reason and "mode 0644" in reason
        assert "secret B: '/absent' (No such file" in reason
    assert node.of_rank("exit", 1)["code"] == 78
    assert SECRET not in node.log(0) + node.log(1)


def error_of(node: Node, rank: int) -> str:
    """The message of a rank's error file."""
    error = poll(lambda: read_json(node.run.attempt(1).error(rank)), what="an error file")
    return str(error["message"])


def test_a_plan_has_names_and_paths(tmp_path: Path) -> None:
    """Of a secret the plan has the path for ranks and the name for their environment; others none.

    What the user's own environment has under its name goes to no process.
    """
    path = write_secret(tmp_path / "token")
    outside = {"TOKEN": "from-outside", "HOME": "/home/user"}
    made = planned(f"secrets.TOKEN={path}", "launch.mode=dynamic", inherited=outside)
    assert all(rank.process.secrets == {"TOKEN": str(path)} for rank in made.ranks)
    assert all(rank.environment[NAMES] == "TOKEN" for rank in made.ranks)
    assert made.scheduler is not None and made.scheduler.secrets == {}
    everyone = [*made.processes, *([made.fork_server] if made.fork_server else [])]
    assert len(everyone) == 4
    assert all("TOKEN" not in one.environment for one in everyone)
    assert all(one.environment["HOME"] == "/home/user" for one in everyone)
    assert written_down(made.to_document(), "run").ranks[1].process.secrets == {"TOKEN": str(path)}
    documents = [one.to_document() for one in (*everyone, made)]
    assert_absent(json.dumps(documents), "plan")


def test_an_error_file_of_the_scripts_own(tmp_path: Path) -> None:
    """What a script wrote there without our help is redacted when it is taken up or shown."""
    path = write_secret(tmp_path / "token")
    made = planned(f"secrets.TOKEN={path}")
    run = RunDirectory(tmp_path / "run")
    files = run.attempt(1)
    files.create()
    record = {"type": "E", "message": SECRET, "traceback": repr(SECRET), "code": 1, "monotonic": 1}
    write_json(files.error(0), record)
    gang = Gang(made, files)
    gang.take({"event": "exit", "rank": 0, "code": 1, "signal": None, "at": 1.0, "asked": False})
    ledger = Ledger()
    ledger.attempt = 1
    [shown, *_] = made.to_document()["ranks"]
    for view in (gang.view(0), _rank_from_disk(shown, ledger, run)):
        assert view is not None and view.error is not None
        assert view.error["message"] == "[secret TOKEN]"
        assert_absent(json.dumps(view.error), "view")


def environments() -> Iterator[tuple[int, bytes]]:
    """Of every process: what it was started with."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "environ").read_bytes()
            except OSError:
                continue


def test_errors_cross_processes(tmp_path: Path) -> None:
    """The error can be pickled and keeps its words."""
    with pytest.raises(Unusable) as caught:
        secrets.read({"A": tmp_path})
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
