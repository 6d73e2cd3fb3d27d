"""What people ask of a controller about jobs: what is printed, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import main
from orchestrator.cli.columns import columns, length
from orchestrator.cli.jobs import _become, _order, _table
from orchestrator.service.tokens import Role, Tokens
from orchestrator.states import JobState
from tests.heads import JOB, PATIENCE, ROOT, ScriptedHead
from tests.runs import MUSTER, poll

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedHead]:
    """A controller for all tests, those included that kill it."""
    head = ScriptedHead(tmp_path_factory.mktemp("head"))
    yield head
    head.kill()


@pytest.fixture
def head(shared: ScriptedHead) -> ScriptedHead:
    """The controller, alive."""
    return shared if shared.lives else shared.start()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A job file."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def muster(head: ScriptedHead, *arguments: str | Path, **variables: str | None) -> Result:
    """A command that finds this controller."""
    environment = {"MUSTER_URL": None, "MUSTER_TOKEN": None, **head.environment, **variables}
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


class Background:
    """A command as a process of its own, its output in files."""

    def __init__(self, head: ScriptedHead, directory: Path, *arguments: str) -> None:
        directory.mkdir()
        self._out, self._err = directory / "out", directory / "err"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                [*MUSTER, *arguments],
                env={**os.environ, **head.environment, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def code(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(PATIENCE)


@pytest.fixture
def start(head: ScriptedHead, tmp_path: Path) -> Iterator[Callable[..., Background]]:
    """Starts commands in the background; none outlives the test."""
    started: list[Background] = []

    def begin(*arguments: str) -> Background:
        started.append(Background(head, tmp_path / str(len(started)), *arguments))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait()


def test_submitting_prints_the_id_and_what_to_do_next(head: ScriptedHead, file: Path) -> None:
    """The id alone is on stdout, for scripts; with --json one document, nothing else."""
    done = muster(head, "submit", file)
    job = done.stdout.strip()
    assert done.exit_code == 0
    assert done.stderr == f"next: muster status {job} -w\n"
    document = json.loads(muster(head, "submit", file, "--json").stdout)
    assert document["job"].startswith("small-") and document["job"] != job
    assert document["run_dir"] == str(head.home.runs / document["job"])


def test_a_key_is_one_job_and_another_job_with_it_is_refused(
    head: ScriptedHead, file: Path
) -> None:
    """--key makes a repeated command the same job; with two files it is wrong usage."""
    first, second = (muster(head, "submit", file, "--key", "k1").stdout for _ in range(2))
    assert first == second
    changed = muster(head, "submit", file, "--key", "k1", "--set", "resources.ranks=3")
    assert (changed.exit_code, "idempotency key" in changed.stderr) == (1, True)
    assert muster(head, "submit", file, file, "--key", "k2").exit_code == 2


def test_a_bad_file_reads_as_run_tells_it(head: ScriptedHead, tmp_path: Path) -> None:
    """Every mistake with its line, the same text and exit code as `muster run`."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(JOB.replace("ranks: 2", "ranks: two") + "nmae: x\nqueue: {priority: 1e3}\n")
    for arguments in ((bad, "--set", "no.such=1"), (tmp_path / "none.yaml",), (tmp_path,)):
        here, there = muster(head, "run", *arguments), muster(head, "submit", *arguments)
        assert (here.exit_code, there.exit_code) == (2, 2)
        assert there.stderr == here.stderr
        assert there.stdout == ""


def test_several_files_are_read_before_any_is_handed_over(
    head: ScriptedHead, file: Path, tmp_path: Path
) -> None:
    """A file that is not there keeps all from being submitted; each id has a line."""
    before = len(list(head.client().jobs()))
    assert muster(head, "submit", file, tmp_path / "none.yaml").exit_code == 2
    assert len(list(head.client().jobs())) == before
    assert len(muster(head, "submit", file, file).stdout.split()) == 2


def test_waiting_for_a_submission_has_its_exit_code(
    head: ScriptedHead, file: Path, start: Callable[..., Background]
) -> None:
    """`submit --wait` ends with the job: 0 if it succeeded, 1 if not."""
    for end, code in (("SUCCEEDED", 0), ("FAILED", 1)):
        name = f"name={end.lower()}"
        waiting = start("submit", str(file), "--wait", "--json", "--set", name)
        rows = poll(lambda: list(head.client().jobs(name=end.lower())), PATIENCE, "the job")  # noqa: B023
        path = ["STARTING", "RUNNING"] + (["STOPPING"] if code else [])
        head.move(rows[0]["job"], *path, end)
        assert waiting.code() == code
        assert json.loads(waiting.out)["state"] == end
        assert rows[0]["job"] in waiting.err


def test_ps_shows_what_runs_and_waits(head: ScriptedHead) -> None:
    """A line a job with a dash for what is not known; ended ones with --all; one document."""
    running, held, ended = (head.submit("name=listed") for _ in range(3))
    head.move(running, "STARTING", "RUNNING", reason="step 12 of 40")
    muster(head, "hold", held)
    muster(head, "cancel", ended)
    lines = muster(head, "ps").stdout.splitlines()
    assert lines[0].split() == [
        "JOB", "STATE", "USER", "QUEUE", "PRIO", "DEVICE", "RANKS", "AGE", "POS", "REASON",
    ]  # fmt: skip
    (shown,) = [line for line in lines if line.startswith(running)]
    assert " RUNNING " in shown and " – " in shown and shown.endswith("step 12 of 40")
    assert not [line for line in lines if line.startswith(ended)]
    assert [line for line in muster(head, "ps", "-a").stdout.splitlines() if ended in line]
    document = json.loads(muster(head, "ps", "--state", "held", "--json").stdout)
    assert (document["schema"], [row["job"] for row in document["jobs"]]) == (1, [held])
    assert document["jobs"][0]["position"] is None
    nobody = muster(head, "ps", "--user", "nobody")
    assert (nobody.stdout, nobody.stderr) == ("", "no jobs; --all shows ended ones\n")


def row(job: str, state: str = "QUEUED", **changes: Any) -> Any:
    """A job as the API lists it."""
    return {
        "job": job, "name": "n", "user": "ann", "queue": "default", "priority": 50, "device": "cpu",
        "ranks": 8, "state": state, "reason": None, "position": None, "attempt": 0,
        "submitted_at": 1000.0, "queued_at": 1000.0, "started_at": None, "ended_at": None,
        "run_dir": "/r", **changes,
    }  # fmt: skip


def test_ps_is_in_the_order_of_the_line() -> None:
    """First what holds devices, then the line by its places, then the held, then the ended."""
    rows = [
        row("gone", "FAILED"), row("held", "HELD"), row("new", submitted_at=2000.0), row("old"),
        row("second", position=2), row("first", position=1), row("runs", "RUNNING"),
    ]  # fmt: skip
    ordered = [one["job"] for one in sorted(rows, key=_order)]
    assert ordered == ["runs", "first", "second", "old", "new", "held", "gone"]


def test_ps_tells_unknown_from_nothing() -> None:
    """A place that is not known is a dash, and why a job waits is never empty."""
    lines = _table([row("a"), row("b", position=3, reason="needs 8 NPUs; node-a has 2")], 1065.0)
    assert lines[1].split() == "a QUEUED ann default 50 cpu 8 1 min – not yet known".split()  # noqa: SIM905
    assert lines[2].endswith("3  needs 8 NPUs; node-a has 2")
    assert not [line for line in lines if line.rstrip() != line]


def test_columns_hold_their_longest_cell() -> None:
    """Numbers end at one place, texts begin at one, and nothing is cut."""
    assert columns(("A", "N", "Z"), [("long", "1", "x" * 300), ("b", "100", "")], right={1})[
        1:
    ] == [
        "long    1  " + "x" * 300,
        "b     100",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (90_000, "1 d")],
)
def test_lengths_of_time_are_short(seconds: float, text: str) -> None:
    """The largest whole unit, rounded down."""
    assert length(seconds) == text


def test_reading_commands_take_an_id(head: ScriptedHead, tmp_path: Path) -> None:
    """status, events, incidents, checkpoints and logs of a submitted job, by its id alone."""
    job = head.submit()
    head.move(job, "STARTING", "RUNNING", reason="eight ranks [train]")
    head.log(job, "hello\n")
    head.log(job, "there\n", rank=1)
    status = muster(head, "status", job)
    assert f"{job} RUNNING" in status.stdout and "reason: eight ranks [train]" in status.stdout
    assert json.loads(muster(head, "status", job, "--json").stdout)["last_event"] == 3
    assert "QUEUED" in muster(head, "events", job).stdout.splitlines()[0]
    events = json.loads(muster(head, "events", job, "--json").stdout)["events"]
    assert [event["sequence"] for event in events] == [1, 2, 3]
    assert muster(head, "incidents", job).stdout == "no incident\n"
    assert "no failure" in muster(head, "explain", job).stdout
    explained = json.loads(muster(head, "explain", job, "--json").stdout)
    assert (explained["job"], explained["state"]) == (job, "RUNNING")
    page = muster(head, "report", job, "-o", str(tmp_path / "r.html"))
    assert page.stdout.strip() == str(tmp_path / "r.html")
    assert "eight ranks [train]" in (tmp_path / "r.html").read_text()
    assert muster(head, "incidents").stdout == "no incident\n"
    assert muster(head, "checkpoints", job).stdout == "no checkpoint yet\n"
    assert muster(head, "logs", job).stdout == "rank-0: hello\nrank-1: there\n"
    assert muster(head, "logs", job, "--rank", "1").stdout == "there\n"
    line = json.loads(muster(head, "logs", job, "--rank", "1", "--json").stdout)
    assert line == {"rank": 1, "attempt": 1, "offset": 6, "line": "there"}
    assert muster(head, "logs", job, "--rank", "7").exit_code == 3


def test_a_watched_job_tells_why_it_waits(head: ScriptedHead) -> None:
    """On a terminal too: the reason, and no table where there is no rank."""
    job = head.submit()
    assert muster(head, "hold", job).exit_code == 0
    assert muster(head, "cancel", job).exit_code == 0
    watched = muster(head, "status", job, "-w").stdout
    assert f"{job} CANCELLED" in watched and "cancelled by" in watched
    assert "heartbeat" not in watched + muster(head, "status", job, "--ranks").stdout


def test_orders_say_what_has_become_of_the_job(head: ScriptedHead) -> None:
    """hold, release, cancel and resume by id or run directory; a refusal is exit code 1."""
    job = head.submit()
    assert muster(head, "hold", job).stdout.startswith(f"{job} is HELD")
    assert json.loads(muster(head, "release", job, "--json").stdout)["state"] == "QUEUED"
    refused = muster(head, "release", job)
    assert (refused.exit_code, "only a job that is HELD" in refused.stderr) == (1, True)
    directory = head.home.runs / job
    directory.mkdir(parents=True)
    (directory / "spec.json").touch()
    (directory / "events.jsonl").touch()
    assert muster(head, "cancel", directory).stdout.startswith(f"{job} is CANCELLED")
    assert f"muster status {job} -w" in muster(head, "resume", directory).stdout
    assert muster(head, "drill", directory, "--fault", "kill-rank:0").exit_code == 1


def test_an_order_that_takes_time_is_not_told_as_done() -> None:
    """A running job is cancelled a little later: both states are named."""
    later = _become(row("a-000000", "RUNNING", reason="step 3"), JobState.CANCELLED)
    assert "is RUNNING and will be CANCELLED" in later and "status a-000000 -w" in later
    done = _become(row("a-000000", "CANCELLED", reason="cancelled by ann"), JobState.CANCELLED)
    assert done == "a-000000 is CANCELLED: cancelled by ann"


def test_a_local_run_takes_no_orders(head: ScriptedHead, tmp_path: Path) -> None:
    """What no controller drives cannot be held; the message says how it is ended."""
    (tmp_path / "spec.json").touch()
    (tmp_path / "events.jsonl").touch()
    refused = muster(head, "hold", tmp_path)
    assert refused.exit_code == 2
    assert "Ctrl-C" in refused.stderr


@pytest.mark.parametrize(
    "command", ["status", "logs", "events", "incidents", "checkpoints", "wait", "cancel", "resume"]
)
def test_what_is_neither_directory_nor_id_is_not_found(tmp_path: Path, command: str) -> None:
    """Exit code 3 with both explanations, without asking anybody."""
    nobody = ScriptedHead(tmp_path / "none")
    done = muster(nobody, command, "some/where")
    assert done.exit_code == 3
    assert "spec.json" in done.stderr and "NAME-1a2b3c" in done.stderr


def test_an_unknown_id_is_not_found(head: ScriptedHead) -> None:
    """Exit code 3 in the controller's words."""
    for arguments in (("status", "x-000000"), ("wait", "x-000000"), ("logs", "x-000000", "-f")):
        done = muster(head, *arguments)
        assert (done.exit_code, done.stdout) == (3, "")
        assert "there is no job x-000000" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("ps",), ("status", "x-000000", "-w"), ("cancel", "x-000000"), ("incidents",)]
)
def test_without_a_controller_the_way_to_one_is_told(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Exit code 4 at once, and `muster up`."""
    done = muster(ScriptedHead(tmp_path / "none"), *arguments)
    assert (done.exit_code, done.stdout) == (4, "")
    assert "`muster up`" in done.stderr


def test_what_a_token_may_not_do_is_exit_code_5(head: ScriptedHead) -> None:
    """A reader reads; ordering, and an unknown token, are not allowed."""
    job = head.submit()
    reader = Tokens(head.home).add("watcher", Role.READ)
    assert muster(head, "status", job, MUSTER_TOKEN=reader).exit_code == 0
    for arguments in (("cancel", job), ("down",)):
        done = muster(head, *arguments, MUSTER_TOKEN=reader)
        assert (done.exit_code, "needs the role" in done.stderr) == (5, True)
    assert muster(head, "ps", MUSTER_TOKEN="muster_unknown").exit_code == 5
    assert muster(head, "ps", MUSTER_TOKEN_FILE="/none").exit_code == 5


def test_watching_outlives_the_controller(
    head: ScriptedHead, file: Path, start: Callable[..., Background]
) -> None:
    """What waits, watches and follows goes on through a kill, says so, and ends with the job."""
    waiting = start("submit", str(file), "--wait")
    job = poll(lambda: waiting.out.strip(), PATIENCE, "an id")
    head.move(job, "STARTING", "RUNNING")
    head.log(job, "before\n")
    watching = start("status", job, "-w", "--json")
    following = start("logs", job, "--rank", "0", "-f")
    poll(lambda: watching.out and following.out, PATIENCE, "first words")
    head.kill()
    everybody = (waiting, watching, following)
    poll(lambda: all("trying again for 300 s" in one.err for one in everybody), PATIENCE)
    head.log(job, "after\n")
    head.start()
    head.move(job, "SUCCEEDED")
    assert [one.code() for one in everybody] == [0, 0, 0], [one.err for one in everybody]
    documents = [json.loads(line) for line in watching.out.splitlines()]
    assert (documents[0]["state"], documents[-1]["state"]) == ("RUNNING", "SUCCEEDED")
    assert following.out == "before\nafter\n"
    assert waiting.out.splitlines() == [job, f"{job} SUCCEEDED: so says the test"]
    assert muster(head, "wait", job).stdout == f"{job} SUCCEEDED: so says the test\n"


def test_waiting_too_long_is_a_failure(head: ScriptedHead) -> None:
    """`wait --timeout` ends with 1 and the state."""
    job = head.submit()
    done = muster(head, "wait", job, "--timeout", "0.1")
    assert (done.exit_code, f"{job} is still QUEUED" in done.stderr) == (1, True)


_HEAVY = {"ray", "mindspore", "fastapi", "starlette", "uvicorn", "httpx", "pydantic", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "code", "more"),
    [
        (("ps",), 0, {"rich", "yaml"}),
        (("ps", "--json", "--all"), 0, {"rich", "yaml"}),
        (("submit", "FILE"), 0, {"rich", "yaml"}),
        (("status", "JOB"), 0, {"yaml"}),
        (("logs", "JOB"), 0, {"rich", "yaml"}),
        (("events", "JOB"), 0, {"rich", "yaml"}),
        (("hold", "JOB"), 0, {"rich", "yaml"}),
        (("release", "JOB"), 1, {"rich", "yaml"}),
        (("resume", "JOB"), 1, {"rich", "yaml"}),
        (("drill", "JOB", "--fault", "kill-ray"), 1, {"rich", "yaml"}),
        (("up",), 0, {"yaml"}),
        (("tokens", "list"), 0, {"rich", "yaml"}),
    ],
)
def test_a_client_command_imports_little(
    head: ScriptedHead, file: Path, arguments: tuple[str, ...], code: int, more: set[str]
) -> None:
    """Neither Ray nor MindSpore, no server, no store: what takes time to import is the head's."""
    job = next(iter(head.client().jobs(states=["QUEUED"])))["job"]
    given = [{"JOB": job, "FILE": str(file)}.get(one, one) for one in arguments]
    program = (
        "import json, sys\n"
        "from orchestrator.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    print('\\n' + json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, *given],
        env={**os.environ, **head.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert {name.partition(".")[0] for name in loaded} & (_HEAVY | more) == set()
    ours = {
        "orchestrator.store",
        "orchestrator.api",
        "orchestrator.controller",
        "cluster.ray_client",
    }
    assert loaded & (ours | {"sqlite3"}) == set()
