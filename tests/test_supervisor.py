"""The supervisor: a real one, driven over a real socket, with real processes under it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import processes
from orchestrator.journal import read_events, read_lines
from orchestrator.launch import MARK, ForkServerPlan, ProcessPlan, TableFile
from orchestrator.layout import RunDirectory, Spool, read_json
from orchestrator.link import Link, Message, listen
from tests.support_core import gone, kill, until

ROOT = str(Path(__file__).resolve().parent.parent)
SLEEP = "import time; time.sleep(600)"
DEADLINE = 30.0


class Node:
    """A run with one supervisor; the test is its controller."""

    program: tuple[str, ...] = ("-m", "orchestrator.supervisor")

    def __init__(self, directory: Path, base: Path, kind: str = "embedded") -> None:
        self.kind = kind
        self.run_id = secrets.token_hex(8)
        self.run = RunDirectory(directory)
        self.spool = Spool(base / "muster-spool", base / "muster-ray")
        self.spool.root.mkdir()
        self.listener = listen(self.spool.socket)
        self.listener.setblocking(True)
        self.listener.settimeout(DEADLINE)
        self.supervisors: list[subprocess.Popen[bytes]] = []
        self.heard: list[Message] = []
        self.begin()

    def begin(self, stderr: Any = None) -> None:
        """Start a supervisor and take its call."""
        argv = [*self.program, self.run_id]
        document = json.dumps(self.spool.to_document())
        with open(self.run.supervisor_log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, *argv, str(self.run.root), document, self.kind],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=stderr or log,
                start_new_session=True,
            )
        self.supervisors.append(process)
        connection, _ = self.listener.accept()
        self.link = Link(connection)
        self.heard = []
        self.hello = self.hear("hello")
        self.tell("welcome", pace=0.0)

    @property
    def pid(self) -> int:
        return self.supervisors[-1].pid

    def environment(self, **more: str) -> dict[str, str]:
        """What processes of the run start with."""
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**own, "PYTHONPATH": ROOT, MARK: self.run_id, **more}

    def tell(self, do: str, epoch: int = 1, **fields: Any) -> None:
        """Send a command."""
        self.link.send({"do": do, "epoch": epoch, **fields})

    def listen(self) -> None:
        """Take what has arrived."""
        self.link.flush()
        for message in self.link.receive():
            self.heard += [*message.get("seen", ()), message]

    def hear(
        self,
        event: str,
        wanted: Callable[[Message], bool] = lambda _: True,
        within: float = DEADLINE,
    ) -> Message:
        """The first message of a kind, taken out of what was heard."""

        def found() -> Message | None:
            self.listen()
            for message in self.heard:
                if message["event"] == event and wanted(message):
                    self.heard.remove(message)
                    return message
            return None

        return until(found, f"{event}; heard {[m['event'] for m in self.heard]}", within)

    def of_rank(self, event: str, rank: int | None) -> Message:
        """The first message of a kind about a rank."""
        return self.hear(event, lambda message: message["rank"] == rank)

    def plan(
        self, rank: int | None, code: str = SLEEP, *, attempt: int = 1, **fields: Any
    ) -> ProcessPlan:
        """A rank that runs a piece of Python, plainly unless `fields` say otherwise."""
        files = self.run.attempt(attempt)
        if not files.root.exists():
            files.create()
        heartbeat = None if rank is None else str(self.spool.heartbeat(attempt, rank))
        error_file = None if rank is None else str(files.error(rank))
        environment = {"MUSTER_JOB": "small", "RANK_ID": str(rank or 0)}
        if heartbeat and error_file:
            environment |= {"MUSTER_HEARTBEAT": heartbeat, "MUSTER_ERROR_FILE": error_file}
        known: dict[str, Any] = {
            "rank": rank,
            "module": None,
            "arguments": (),
            "argv": (sys.executable, "-c", code),
            "environment": self.environment(**environment),
            "workdir": str(self.run.root),
            "log": str(files.log(rank)),
            "cpus": (),
            "heartbeat": heartbeat,
            "error_file": error_file,
            "start": "spawn",
        }
        return ProcessPlan(**{**known, **fields})

    def forked(
        self, rank: int, code: str = SLEEP, *, start: str = "fork", **fields: Any
    ) -> ProcessPlan:
        """A rank that the fork server starts; its module is written here."""
        module = f"script_{rank}"
        (self.run.root / f"{module}.py").write_text(code)
        argv = (sys.executable, "-m", "orchestrator.entry", module)
        return self.plan(rank, module=module, argv=argv, start=start, **fields)

    def warm(self, *preload: str, **modules: str) -> None:
        """Ask for a fork server that has imported `preload`; `modules` are written first."""
        for name, code in modules.items():
            (self.run.root / f"{name}.py").write_text(code)
        server = ForkServerPlan(
            python=sys.executable,
            environment=self.environment(),
            workdir=str(self.run.root),
            preload=(*preload, *modules),
            log=str(self.run.supervisor_log),
        )
        self.tell("warm", fork_server=server.to_document())

    def start(self, *plans: ProcessPlan, attempt: int = 1) -> None:
        """Start processes of an attempt."""
        self.tell("start", attempt=attempt, launches=[plan.to_document() for plan in plans])

    def stop(self, grace: float = 0.0, attempt: int = 1) -> Message:
        """Stop the gang and wait for the word that it is gone."""
        self.tell("stop", attempt=attempt, grace=grace)
        return self.hear("stopped")

    def log(self, rank: int | None, attempt: int = 1) -> str:
        """What a process has written so far."""
        path = self.run.attempt(attempt).log(rank)
        return path.read_text() if path.exists() else ""

    def pids_in_log(self, rank: int) -> list[int]:
        """Pids that a rank has written, a line with one or more of them."""
        line = until(lambda: "\n" in self.log(rank) and self.log(rank), f"pids of rank {rank}")
        return [int(word) for word in line.split()]

    def end(self) -> None:
        """Hang up, and see that nothing is left."""
        self.link.close()
        self.listener.close()
        for process in self.supervisors:
            try:
                process.wait(DEADLINE)
            finally:
                process.kill()
                kill(*processes.marked(MARK, self.run_id))
        for process in self.supervisors:
            process.wait()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A run with a supervisor that has said hello."""
    with tempfile.TemporaryDirectory(prefix="sup-", ignore_cleanup_errors=True) as base:
        made = Node(tmp_path, Path(base))
        try:
            yield made
        finally:
            made.end()


# -- starting -------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["edited", "removed", "none"])
def test_a_rank_whose_table_changed_is_not_started(node: Node, change: str) -> None:
    """Its log names the table's digest, and says what became of the file."""
    table = node.run.root / "rank_table.json"
    table.write_text("{}")
    written = TableFile(str(table), hashlib.sha256(b"{}").hexdigest())
    if change == "edited":
        table.write_text("{} ")
    elif change == "removed":
        table.unlink()
    plan = node.plan(0, table=written, preamble=f"table {written.sha256}")
    node.start(plan)
    if change == "none":
        node.of_rank("started", 0)
        assert node.log(0) == f"table {written.sha256}\n"
        return
    refused = node.of_rank("start_failed", 0)
    assert refused["errno"] == errno.ESTALE and str(table) in refused["reason"]
    assert written.sha256 in node.log(0) and refused["reason"] in node.log(0)


def test_it_introduces_itself(node: Node) -> None:
    """Hello carries the identity that survives pid reuse."""
    identity = processes.identify(node.pid)
    assert identity is not None
    assert (node.hello["pid"], node.hello["start_time"]) == (node.pid, identity.start_time)
    assert node.hello["boot_id"] == processes.boot_id()


def test_every_end_is_told_and_recorded(node: Node) -> None:
    """Code or signal, pid and start time of each process: as a message and in the attempt."""
    node.start(
        node.plan(None, "pass"),
        node.plan(0, "print('hello from 0')"),
        node.plan(1, "import sys; sys.exit(65)"),
        node.plan(2, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
    )
    expected = {None: (0, None), 0: (0, None), 1: (65, None), 2: (None, signal.SIGSEGV)}
    for rank, (code, number) in expected.items():
        started, ended = node.of_rank("started", rank), node.of_rank("exit", rank)
        assert (ended["code"], ended["signal"], ended["asked"]) == (code, number, False)
        assert ended["pid"] == started["pid"]
        assert started["at"] <= ended["at"] <= time.monotonic()
    exits = node.run.attempt(1).exits
    until(lambda: len(list(read_lines(exits))) == 4, "four recorded ends")
    recorded = {line["rank"]: (line["code"], line["signal"]) for line in read_lines(exits)}
    assert recorded == expected
    assert all(line["start_time"] for line in read_lines(exits))
    assert node.log(0) == "hello from 0\n"


ABOUT = """
import json, os
status = open("/proc/self/status").read()
def mask(name):
    return int(status.split(name + ":")[1].split()[0], 16)
print(json.dumps({
    "pid": os.getpid(),
    "parent": os.getppid(),
    "session": os.getsid(0),
    "group": os.getpgid(0),
    "cpus": sorted(os.sched_getaffinity(0)),
    "batch": os.sched_getscheduler(0) == os.SCHED_BATCH,
    "cwd": os.getcwd(),
    "fds": sorted(int(n) for n in os.listdir("/proc/self/fd")),
    "stdin": os.readlink("/proc/self/fd/0"),
    "blocked": mask("SigBlk"),
    "ignored": mask("SigIgn"),
    "caught": mask("SigCgt"),
    "environment": dict(os.environ),
}), flush=True)
"""


def about(node: Node, rank: int) -> dict[str, Any]:
    """What a rank says of itself."""
    node.of_rank("exit", rank)
    found: dict[str, Any] = json.loads(node.log(rank))
    return found


@pytest.mark.parametrize("how", ["spawn", "fork"])
def test_a_rank_is_what_its_plan_says(node: Node, how: str) -> None:
    """Own session below the supervisor, its CPUs and directory, exactly its environment."""
    cpu = min(os.sched_getaffinity(0))
    environment = node.environment(ONLY_HERE="yes", RANK_ID="0", MUSTER_JOB="small")
    options: dict[str, Any] = {"cpus": (cpu,), "environment": environment, "batch": True}
    if how == "fork":
        node.warm()
        node.start(node.forked(0, ABOUT, **options))
    else:
        node.start(node.plan(0, ABOUT, **options))
    pid = node.of_rank("started", 0)["pid"]
    told = about(node, 0)
    assert (told["pid"], told["session"], told["group"]) == (pid, pid, pid)
    assert told["parent"] == node.pid
    assert told["cpus"] == [cpu]
    assert told["batch"]
    assert told["cwd"] == str(node.run.root)
    assert told["stdin"] == os.devnull
    own = {name: value for name, value in told["environment"].items() if name != "LC_CTYPE"}
    assert own == {name: value for name, value in environment.items() if name != "LC_CTYPE"}


POLICY = """
import ctypes, os
mode, mask = ctypes.c_int(-1), (ctypes.c_ulong * 64)()
number = {"x86_64": 239, "aarch64": 236}[os.uname().machine]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(number, ctypes.byref(mode), mask, ctypes.c_ulong(64 * 64), None, 0) == 0
print(mode.value, [n for n in range(64 * 64) if mask[n // 64] >> n % 64 & 1], flush=True)
"""


def may_bind_memory() -> bool:
    """False in a container whose seccomp filter allows no memory policies."""
    bind = "from orchestrator.memory_policy import bind_memory; bind_memory([0])"
    done = subprocess.run([sys.executable, "-c", bind], capture_output=True, text=True, check=False)
    return "PermissionError" not in done.stderr


@pytest.mark.parametrize("how", ["spawn", "fork"])
@pytest.mark.skipif(not may_bind_memory(), reason="a filter forbids set_mempolicy")
@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="numbers of calls")
def test_memory_is_bound_or_the_log_says_why_not(node: Node, how: str) -> None:
    """The kernel knows the policy; a NUMA node that is not there costs a line, not the rank."""
    if how == "fork":
        node.warm()
    make = node.forked if how == "fork" else node.plan
    node.start(
        make(0, POLICY), make(1, POLICY, memory_nodes=(0,)), make(2, POLICY, memory_nodes=(1000,))
    )
    for rank in (0, 1, 2):
        assert node.of_rank("exit", rank)["code"] == 0, node.log(rank)
    assert node.log(0) == "0 []\n"
    assert node.log(1) == "2 [0]\n"
    why, policy = node.log(2).splitlines()
    assert why.startswith("muster: memory is not bound to NUMA nodes 1000: [Errno 22]")
    assert policy == "0 []"


def test_opencv_in_a_forked_rank_counts_the_ranks_cpus(node: Node) -> None:
    """Whatever the server, which may use more of them, has counted before the fork."""
    every = sorted(os.sched_getaffinity(0))
    count = "import sys; print(sys.modules['cv2'].getNumThreads(), flush=True)"
    node.warm(counted="import cv2; cv2.getNumThreads()")
    node.start(node.forked(0, count, cpus=(every[0],)), node.forked(1, count, cpus=tuple(every)))
    for rank, expected in ((0, 1), (1, len(every))):
        assert node.of_rank("exit", rank)["code"] == 0, node.log(rank)
        assert node.log(rank) == f"{expected}\n"


def test_forked_and_started_ranks_do_not_differ(node: Node) -> None:
    """Signals are handled, and none is blocked, as in a Python that was just started."""
    fresh = subprocess.run(
        [sys.executable, "-c", ABOUT], capture_output=True, text=True, check=True
    )
    expected = json.loads(fresh.stdout)
    node.warm()
    node.start(node.plan(0, ABOUT), node.forked(1, ABOUT))
    for rank in (0, 1):
        told = about(node, rank)
        signals = {name: told[name] for name in ("blocked", "ignored", "caught")}
        assert signals == {name: expected[name] for name in signals}, f"rank {rank}"


def test_nothing_leaks_into_a_started_rank(node: Node) -> None:
    """A rank has its three streams and no descriptor of the supervisor."""
    node.start(node.plan(0, ABOUT))
    told = about(node, 0)
    # One more is the listing of the directory itself.
    assert len(told["fds"]) <= 4, told["fds"]


def test_no_socket_leaks_into_a_forked_rank(node: Node) -> None:
    """A forked rank holds neither the fork server's socket nor a pipe to anybody."""
    code = (
        "import os\nfor n in os.listdir('/proc/self/fd'):\n"
        "    try: print(os.readlink('/proc/self/fd/' + n))\n    except OSError: pass\n"
    )
    node.warm()
    node.start(node.forked(0, code))
    node.of_rank("exit", 0)
    assert "socket:" not in node.log(0)
    assert "pipe:" not in node.log(0)
    assert str(node.run.attempt(1).log(0)) in node.log(0)


@pytest.mark.parametrize(
    ("fields", "says", "number"),
    [
        ({"argv": ("no-such-program",)}, "no-such-program", 2),
        ({"argv": ("/etc/passwd",)}, "/etc/passwd", 13),
        ({"workdir": "/no/such/place"}, "/no/such/place", 2),
        ({"log": "/no/such/place/log"}, "/no/such/place", 2),
    ],
)
def test_a_start_that_fails_is_told(
    node: Node, fields: dict[str, Any], says: str, number: int
) -> None:
    """What cannot be started is named with its errno; the others of the gang start."""
    node.start(node.plan(0, **fields), node.plan(1, "pass"))
    failed = node.of_rank("start_failed", 0)
    assert says in failed["reason"]
    assert failed["errno"] == number
    assert failed["attempt"] == 1
    assert node.of_rank("exit", 1)["code"] == 0


BEATS = """
import sys, time
from orchestrator.rank import Rank
rank = Rank.from_env()
rank.phase("train")
for step in range(1, 4):
    rank.step(step, loss=0.5)
    time.sleep(0.15)
rank.step(4)
rank.done()
"""


def test_heartbeats_are_passed_on(node: Node) -> None:
    """Steps arrive while the rank trains, each once, and its last word before its end."""
    node.start(node.plan(0, BEATS))
    node.hear("exit")
    kinds = [m["event"] for m in node.heard if m["event"] == "beat"]
    beats = [m["beat"] for m in node.heard if m["event"] == "beat"]
    assert len(kinds) >= 2
    steps = [beat["step"] for beat in beats]
    assert steps == sorted(steps)
    assert (beats[-1]["step"], beats[-1]["done"]) == (4, True)
    sequences = [beat["sequence"] for beat in beats]
    assert len(sequences) == len(set(sequences))


def test_a_spoilt_heartbeat_harms_nobody(node: Node) -> None:
    """A rank that writes rubbish over its record is still watched by its end."""
    code = "import os\nopen(os.environ['MUSTER_HEARTBEAT'], 'wb').write(os.urandom(4096))\n"
    node.start(node.plan(0, code))
    assert node.hear("exit")["code"] == 0
    assert node.stop()["stuck"] == []


def test_a_stopped_process_is_seen(node: Node) -> None:
    """SIGSTOP shows from outside: that rank stands still by itself."""
    node.start(node.plan(0))
    os.kill(node.of_rank("started", 0)["pid"], signal.SIGSTOP)
    node.hear("signs", lambda message: message["process_state"] == "T")


# -- stopping -------------------------------------------------------------------------------

ESCAPE = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
own = os.getpid()
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    print(own, os.getpid(), flush=True)
time.sleep(600)
"""


def test_a_stop_leaves_nothing(node: Node) -> None:
    """KILL at once: also a grandchild that left its session, its parent and all signals."""
    node.start(node.plan(None), node.plan(0, ESCAPE), node.plan(1), node.plan(2, ESCAPE))
    pids = node.pids_in_log(0) + node.pids_in_log(2)
    began = time.monotonic()
    stopped = node.stop()
    assert stopped["stuck"] == []
    assert stopped["attempt"] == 1
    assert all(gone(pid) for pid in pids)
    assert processes.descendants(node.pid) == []
    assert time.monotonic() - began < 10
    for rank in (None, 0, 1, 2):
        ended = node.of_rank("exit", rank)
        assert (ended["signal"], ended["asked"]) == (signal.SIGKILL, True)


def test_stopped_comes_after_all_ends(node: Node) -> None:
    """When a gang is reported gone, every exit of it has been reported."""
    node.start(*(node.plan(rank) for rank in range(3)))
    for rank in range(3):
        node.of_rank("started", rank)
    node.tell("stop", attempt=1, grace=0.0)
    until(lambda: node.listen() or any(m["event"] == "stopped" for m in node.heard), "stopped")
    kinds = [m["event"] for m in node.heard if m["event"] in ("exit", "stopped")]
    assert kinds == ["exit"] * 3 + ["stopped"]


POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(75)))
print("ready", flush=True)
while True:  # a signal that comes just before a long sleep would be handled after it
    time.sleep(0.05)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def test_term_gives_time_and_kill_ends_it(node: Node) -> None:
    """With a grace a rank may save and leave; one that will not is killed after it."""
    node.start(node.plan(0, POLITE), node.plan(1, STUBBORN))
    for rank in (0, 1):
        until(lambda rank=rank: "ready" in node.log(rank), f"rank {rank}")
    began = time.monotonic()
    assert node.stop(grace=1.0)["stuck"] == []
    assert time.monotonic() - began >= 1.0
    polite, stubborn = node.of_rank("exit", 0), node.of_rank("exit", 1)
    assert (polite["code"], polite["signal"]) == (75, None)
    assert stubborn["signal"] == signal.SIGKILL
    assert "saved" in node.log(0)


def test_a_grace_ends_with_the_last_process(node: Node) -> None:
    """Nobody waits for a grace that nobody needs."""
    node.start(node.plan(0, POLITE))
    until(lambda: "ready" in node.log(0), "rank 0")
    began = time.monotonic()
    node.stop(grace=60.0)
    assert time.monotonic() - began < 20


def test_stopping_nothing_is_done_at_once(node: Node) -> None:
    """A stop without a gang is answered."""
    assert node.stop()["stuck"] == []


def test_a_death_before_the_stop_is_not_taken_for_ours(node: Node) -> None:
    """Killed by somebody else a moment before the stop: the exit is not marked as asked."""
    node.start(node.plan(0), node.plan(1))
    pids = [node.of_rank("started", rank)["pid"] for rank in (0, 1)]
    os.kill(node.pid, signal.SIGSTOP)
    try:
        kill(pids[1])
        until(lambda: gone(pids[1]), "the death of rank 1")
        node.tell("stop", attempt=1, grace=0.0)
    finally:
        os.kill(node.pid, signal.SIGCONT)
    node.hear("stopped")
    assert node.of_rank("exit", 1)["asked"] is False
    assert node.of_rank("exit", 0)["asked"] is True


def test_the_next_attempt_starts_clean(node: Node) -> None:
    """After a stop the same supervisor runs the next attempt, and its ends are that one's."""
    node.start(node.plan(0, ESCAPE))
    node.pids_in_log(0)
    node.stop()
    node.start(node.plan(0, "print('again')", attempt=2), attempt=2)
    ended = node.hear("exit", lambda message: message["attempt"] == 2)
    assert ended["code"] == 0
    assert node.log(0, attempt=2) == "again\n"
    until(lambda: list(read_lines(node.run.attempt(2).exits)), "the record")


def test_orphans_are_collected(node: Node) -> None:
    """What a rank leaves behind becomes no zombie."""
    code = "import os\nfor _ in range(5):\n    if os.fork() == 0:\n        os._exit(0)\n"
    node.start(node.plan(0, code), node.plan(1))
    node.of_rank("exit", 0)

    def children() -> list[int]:
        text = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    living = node.of_rank("started", 1)["pid"]
    until(lambda: children() == [living], "no zombie")


# -- the fork server ------------------------------------------------------------------------


def test_ranks_are_forked_warm(node: Node) -> None:
    """What was preloaded is there without being imported again, in every rank its own state."""
    shared = "import os, random\nloaded_by = os.getpid()\n"
    code = (
        "import sys, os, random\nassert 'warm_module' in sys.modules\n"
        "import warm_module\nassert warm_module.loaded_by != os.getpid()\n"
        "assert sys.argv[1:] == ['--lr=0.1'], sys.argv\n"
        "assert __name__ == '__main__'\nprint(random.random())\n"
    )
    node.warm(warm_module=shared)
    node.start(*(node.forked(r, code, arguments=("--lr=0.1",)) for r in range(3)))
    assert node.hear("warmed")["failed"] == []
    for rank in range(3):
        assert node.of_rank("exit", rank)["code"] == 0, node.log(rank)
    assert len({node.log(rank) for rank in range(3)}) == 3


def test_a_forked_rank_reports_its_error(node: Node) -> None:
    """An exception in a forked rank leaves record, code and traceback as in a started one."""
    node.warm()
    node.start(node.forked(0, "raise ValueError('of the script')"))
    assert node.of_rank("exit", 0)["code"] == 1
    record = read_json(node.run.attempt(1).error(0))
    assert record is not None and record["message"] == "of the script"
    assert "of the script" in node.log(0)


def test_a_module_that_cannot_be_preloaded_is_named(node: Node) -> None:
    """The fork server goes on without it, and the rank complains if it needs it."""
    node.warm("no_such_module")
    node.start(node.forked(0, "print('here')"))
    assert "no_such_module" in node.hear("warmed")["failed"][0]
    assert node.of_rank("exit", 0)["code"] == 0


THREADED = """
import threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"""


def test_a_refused_fork_becomes_a_plain_start(node: Node) -> None:
    """Where a preloaded module runs threads nothing is forked; `auto` starts plainly instead."""
    node.warm(threaded=THREADED)
    node.start(node.forked(0, "print('plainly')", start="auto"))
    assert node.of_rank("exit", 0)["code"] == 0
    assert node.log(0) == "plainly\n"
    node.hear("note", lambda message: "threads" in message["text"])


def test_a_refused_fork_fails_where_fork_was_asked_for(node: Node) -> None:
    """`start: fork` does not become something else."""
    node.warm(threaded=THREADED)
    node.start(node.forked(0, "print('plainly')"))
    assert "threads" in node.of_rank("start_failed", 0)["reason"]
    assert node.log(0) == ""


def test_large_environments_all_get_through(node: Node) -> None:
    """Many requests that wait for a slow preload are all answered."""
    node.warm(slow="import time; time.sleep(1.0)")
    big = {f"BIG_{number}": "x" * 60_000 for number in range(2)}
    plans = [node.forked(r, "pass", environment=node.environment(**big)) for r in range(12)]
    node.start(*plans)
    for rank in range(12):
        assert node.of_rank("exit", rank)["code"] == 0


def test_a_stop_does_not_wait_for_a_preload(node: Node) -> None:
    """Forks that are still owed are dropped; none comes later; the next attempt is forked."""
    node.warm(slow="import time; time.sleep(30)")
    node.start(*(node.forked(rank, start="auto") for rank in range(3)), node.plan(3))
    node.of_rank("started", 3)
    began = time.monotonic()
    assert node.stop()["stuck"] == []
    assert time.monotonic() - began < 5
    assert processes.descendants(node.pid) == []
    (node.run.root / "slow.py").unlink()
    node.warm("json")
    node.start(node.forked(0, "print('next')", attempt=2), attempt=2)
    assert node.hear("exit", lambda m: (m["rank"], m["attempt"]) == (0, 2))["code"] == 0
    assert not [m for m in node.heard if m["event"] == "started" and m["attempt"] == 1]


def test_a_stop_among_forks_leaves_nothing(node: Node) -> None:
    """A stop at any moment of a warm start ends every rank that was or will be forked."""
    for attempt in range(1, 6):
        node.warm()
        plans = [node.forked(rank, attempt=attempt, start="auto") for rank in range(4)]
        node.start(*plans, attempt=attempt)
        deadline = time.monotonic() + 0.02 * attempt
        until(lambda deadline=deadline: time.monotonic() > deadline, "the moment")
        assert node.stop(attempt=attempt)["stuck"] == []
        left = [pid for pid in processes.descendants(node.pid) if not is_server(pid)]
        assert left == []


def is_server(pid: int) -> bool:
    """Whether a process is the idle fork server: what it forks leads another session."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return b"orchestrator.forkserver" in command and not children and os.getsid(pid) == pid
    except OSError:
        return True  # it has just gone


@pytest.mark.parametrize("start", ["auto", "fork"])
def test_a_fork_server_that_dies_is_told(node: Node, start: str) -> None:
    """Killed while it owes starts: `auto` starts plainly, `fork` fails; forked ranks live on."""
    node.warm()
    node.start(node.forked(0, start=start))
    living = node.of_rank("started", 0)["pid"]
    (server,) = (pid for pid in processes.descendants(node.pid) if pid != living)
    os.kill(server, signal.SIGSTOP)
    node.start(node.forked(1, "print('plainly')", start=start, attempt=2), attempt=2)
    kill(server)
    if start == "auto":
        assert node.of_rank("exit", 1)["code"] == 0
    else:
        assert node.of_rank("start_failed", 1)
    node.hear("note", lambda message: "fork server ended" in message["text"])
    assert not gone(living)


# -- ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["spawn", "fork"])
def test_ranks_die_with_their_supervisor(node: Node, how: str) -> None:
    """SIGKILL to the supervisor ends its ranks; its successor clears what had escaped."""
    if how == "fork":
        node.warm()
        node.start(node.forked(0, ESCAPE), node.forked(1))
    else:
        node.start(node.plan(0, ESCAPE), node.plan(1))
    rank, escaped = node.pids_in_log(0)
    other = node.of_rank("started", 1)["pid"]
    kill(node.pid)
    until(lambda: gone(rank) and gone(other), "the ranks' end")
    node.supervisors[-1].wait()
    node.link.close()
    node.begin()
    until(lambda: gone(escaped), "the clearing of what had escaped")
    assert [p for p in processes.marked(MARK, node.run_id) if p != node.pid] == []
    node.start(node.plan(0, "pass", attempt=2), attempt=2)
    assert node.hear("exit")["code"] == 0


def test_everything_ends_with_the_controller(node: Node) -> None:
    """When the conversation ends unsaid, ranks, fork server and spool go, and the journal says."""
    node.warm()
    node.start(node.forked(0, ESCAPE), node.plan(1))
    pids = [*node.pids_in_log(0), node.of_rank("started", 1)["pid"]]
    node.link.close()
    assert node.supervisors[-1].wait(DEADLINE) == 0
    assert all(gone(pid) for pid in pids)
    assert processes.marked(MARK, node.run_id) == []
    assert not node.spool.root.exists()
    assert "controller_lost" in [event.kind for event in read_events(node.run.events)]


def test_leaving_is_silent(node: Node) -> None:
    """Told to leave, it takes everything with it and has nothing to explain."""
    node.start(node.plan(0, ESCAPE))
    pids = node.pids_in_log(0)
    node.tell("leave")
    assert node.supervisors[-1].wait(DEADLINE) == 0
    assert all(gone(pid) for pid in pids)
    assert not node.spool.root.exists()
    assert read_events(node.run.events) == []


def test_sigterm_ends_it_in_order(node: Node) -> None:
    """A polite end of the supervisor is an end of its ranks, with their exits told."""
    node.start(node.plan(0, ESCAPE))
    pids = node.pids_in_log(0)
    os.kill(node.pid, signal.SIGTERM)
    assert node.supervisors[-1].wait(DEADLINE) == 0
    assert all(gone(pid) for pid in pids)
    assert node.of_rank("exit", 0)["asked"] is True


def test_other_signals_do_not_end_it(node: Node) -> None:
    """A Ctrl-C or a hang-up that reaches the node's processes is the controller's business."""
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(node.pid, number)
    node.start(node.plan(0, "pass"))
    assert node.hear("exit")["code"] == 0


def test_a_full_disk_does_not_end_it(node: Node) -> None:
    """With no room for records and log it goes on, tells every end and stops its gang."""
    node.tell("leave")
    node.supervisors[-1].wait(DEADLINE)
    node.link.close()
    node.listener.close()
    node.spool.root.mkdir(exist_ok=True)
    node.listener = listen(node.spool.socket)
    node.listener.setblocking(True)
    node.listener.settimeout(DEADLINE)
    with open("/dev/full", "wb") as full:
        node.begin(stderr=full)
    plans = [node.plan(rank, code, log=os.devnull) for rank, code in ((0, "pass"), (1, ESCAPE))]
    attempt = node.run.attempt(1).root
    attempt.rename(attempt.with_name("gone"))  # where exits.jsonl should be written
    node.start(*plans)
    assert node.of_rank("exit", 0)["code"] == 0
    node.of_rank("started", 1)
    assert node.stop()["stuck"] == []
    node.of_rank("exit", 1)
    assert node.supervisors[-1].poll() is None


def test_an_older_controller_is_refused(node: Node) -> None:
    """After a command of a later epoch an earlier controller has nothing to say."""
    node.start(node.plan(0))
    pid = node.of_rank("started", 0)["pid"]
    node.tell("hello there", epoch=3)
    node.hear("note", lambda message: "unknown command" in message["text"])
    node.tell("stop", epoch=2, attempt=1, grace=0.0)
    node.hear("note", lambda message: "epoch 2" in message["text"])
    assert not gone(pid)


def test_nobody_to_serve(tmp_path: Path) -> None:
    """Without a controller it says so and leaves."""
    argv = [sys.executable, "-m", "orchestrator.supervisor", "r"]
    spool = json.dumps(Spool(tmp_path / "a", tmp_path / "b").to_document())
    done = subprocess.run(
        [*argv, str(tmp_path), spool, "service"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "no controller on" in done.stderr
    assert "Traceback" not in done.stderr


SHOWS = (
    "from orchestrator.rank import Rank\nimport time\nRank.from_env().phase('train')\n"
    "def rest():\n    time.sleep(600)\nrest()"
)


def contract(node: Node, rank: int) -> dict[str, str]:
    """The environment of a rank that finds its attempt's directory."""
    beat = str(node.spool.heartbeat(1, rank))
    told = {"MUSTER_RUN_DIR": str(node.run.root), "MUSTER_ATTEMPT": "1", "MUSTER_HEARTBEAT": beat}
    return node.environment(MUSTER_JOB="small", RANK_ID=str(rank), **told)


def test_an_examination_tells_where_ranks_are_and_harms_none(node: Node) -> None:
    """Stacks of who can write them, what the kernel knows of all; both go on as before."""
    plans = [
        node.plan(0, SHOWS, environment=contract(node, 0)),
        node.plan(1, environment=contract(node, 1)),
    ]
    node.start(*plans)
    pids = [node.of_rank("started", rank)["pid"] for rank in (0, 1)]
    node.hear("beat", lambda message: message["rank"] == 0)
    stacks = node.run.attempt(1).stacks(0)
    until(stacks.exists, "the file of stacks")
    node.tell("examine", attempt=1, patience=5.0)
    seen = {one["rank"]: one for one in node.hear("examined")["ranks"]}
    begin, end = seen[0]["stacks"]
    assert "in rest" in stacks.read_bytes()[begin:end].decode()
    assert seen[0]["no_stacks"] == "" and "no handler" in seen[1]["no_stacks"]
    assert [seen[rank]["pid"] for rank in (0, 1)] == pids
    assert seen[1]["state"] == "S" and seen[1]["threads"][0]["tid"] == pids[1]
    assert all(processes.state_of(pid) == "S" for pid in pids)
    node.tell("examine", attempt=1, patience=0.0)
    quick = node.hear("examined")["ranks"]
    assert [one["stacks"][1] for one in quick] == [0, 0] and not quick[0]["threads"]


def test_a_stopped_rank_is_sent_nothing(node: Node) -> None:
    """It would get the signal when it goes on; a stop under way is not kept waiting."""
    node.start(node.plan(0, SHOWS, environment=contract(node, 0)))
    pid = node.of_rank("started", 0)["pid"]
    node.hear("beat")
    os.kill(pid, signal.SIGSTOP)
    until(lambda: processes.state_of(pid) == "T", "stopped")
    node.tell("examine", attempt=1, patience=60.0)
    [seen] = node.hear("examined")["ranks"]
    assert (seen["state"], seen["no_stacks"]) == ("T", "its process is stopped")
    node.tell("stop", attempt=1, grace=0.0)
    node.hear("stopped")


def test_a_stop_ends_an_examination(node: Node) -> None:
    """Whoever has waited long enough is not made to wait for evidence."""
    blind = "import signal\nfrom orchestrator.stack_signal import STACK_SIGNAL\n"
    blind += "signal.pthread_sigmask(signal.SIG_BLOCK, [STACK_SIGNAL])\n" + SHOWS
    node.start(node.plan(0, blind, environment=contract(node, 0)))
    node.hear("beat")
    until(node.run.attempt(1).stacks(0).exists, "the file of stacks")
    node.tell("examine", attempt=1, patience=60.0)
    node.tell("stop", attempt=1, grace=0.0)
    node.hear("stopped")
    assert "examined" not in [message["event"] for message in node.heard]


class Patient(Node):
    """Its supervisor looks around once an hour, and else waits for something to happen."""

    program = ("-c", "from orchestrator import supervisor as s; s._TICK = 3600.0; s.main()")


def test_an_exit_is_an_event(tmp_path: Path) -> None:
    """It is told when it happens, whatever the period of looks."""
    with tempfile.TemporaryDirectory(prefix="sup-", ignore_cleanup_errors=True) as base:
        node = Patient(tmp_path, Path(base))
        try:
            node.start(node.plan(0), node.plan(1, "raise SystemExit(7)"))
            pid = node.of_rank("started", 0)["pid"]
            assert node.of_rank("exit", 1)["code"] == 7
            os.kill(pid, signal.SIGKILL)
            assert node.of_rank("exit", 0)["signal"] == signal.SIGKILL
        finally:
            node.end()
