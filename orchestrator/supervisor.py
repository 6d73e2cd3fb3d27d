"""The supervisor: one small process a node that owns the ranks there.

`python -m orchestrator.supervisor RUN_ID RUN_DIR SPOOL_JSON embedded|service`. It starts ranks,
records every exit the moment it happens, passes heartbeats on, and stops a gang so that
nothing of it is left. It never imports MindSpore or Ray and survives the death of both.
In an embedded run it ends with its controller: the end of their conversation tells. In a
service it outlives its controller, and dials until there is another.

One thread, one selector. Messages in: welcome, warm, start, examine, stop, leave. Messages out:
hello, warmed, started, start_failed, look (beats, signs, efforts), exit, examined, stopped, note.
Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator import processes
from orchestrator.examination import Examination, Subject
from orchestrator.forkclient import ForkClient
from orchestrator.journal import append_line
from orchestrator.launch import MARK, ForkServerPlan, ProcessPlan, bind
from orchestrator.layout import RunDirectory, Spool, write_json
from orchestrator.link import Message
from orchestrator.lookout import Lookout
from orchestrator.secrets import Unusable
from orchestrator.uplink import Uplink

_TICK = 0.1
_TICK_STOPPING = 0.01
_STOP_TIMEOUT = 10.0
_RAY_GRACE = 9.0
_ABANDONED_AFTER = 60.0


@dataclass
class Child:
    """A process that was started for an attempt."""

    launch: ProcessPlan
    attempt: int
    identity: processes.Identity
    lookout: Lookout


@dataclass
class Stopping:
    """A stop under way: TERM was sent; KILL follows at `kill_at`; given up at `give_up_at`."""

    attempt: int
    kill_at: float
    give_up_at: float


class Supervisor:
    """See the module; `run` returns when everything that it owned is gone."""

    def __init__(
        self, run_id: str, directory: RunDirectory, spool: Spool, *, outlives: bool
    ) -> None:
        """`outlives`: the end of a controller is not the end of its ranks."""
        self._run_id = run_id
        self._uplink = Uplink(spool.socket, self._hello)
        self._directory = directory
        self._spool = spool
        self._outlives = outlives
        self._pace = _TICK
        self._epoch = 0
        self._attempt = 0
        self._children: dict[int, Child] = {}
        self._unclaimed: dict[int, int] = {}
        self._stopping: Stopping | None = None
        self._examination: Examination | None = None
        self._fork = ForkClient(os.getpid())
        self._in_charge = False
        self._leaving = False
        self._terminated = False
        self._orphaned = False
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._wakeup_in = socket.socketpair()

    def run(self) -> None:
        """Serve until told to leave or, in an embedded run, until the controller is gone.

        Raises OSError when there is no controller to begin with.
        """
        self._install_signals()
        processes.become_subreaper()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._uplink.dial()
        self._selector.register(self._uplink, selectors.EVENT_READ)
        next_beat = 0.0
        while not (self._leaving and self._stopping is None):
            busy = self._stopping or self._examination
            for key, _ in self._selector.select(_TICK_STOPPING if busy else _TICK):
                self._readable(key.fileobj)
            self._reap()
            self._uplink.flush()
            self._fork.flush()
            if not (self._uplink.up or self._leaving):
                self._be_alone()
            if self._terminated and not self._leaving:
                self._leave()
            if self._stopping:
                self._push_stop()
            if self._examination:
                self._push_examination()
            if time.monotonic() >= next_beat:
                self._look_out()
                next_beat = time.monotonic() + self._pace
        self._end()

    def _hello(self) -> Message:
        identity = processes.identify(os.getpid())
        if identity is None:
            raise OSError("cannot read /proc: it must be mounted")
        return {"event": "hello", **asdict(identity), "started_attempt": self._attempt}

    def _be_alone(self) -> None:
        """Without a controller: look for the next one; leave if there is nothing to keep."""
        if self._uplink.redial():
            self._selector.register(self._uplink, selectors.EVENT_READ)
            for child in self._children.values():
                child.lookout.forget()
        elif self._abandoned():
            say("nobody needs this supervisor any more: its spool is gone, and it has no ranks")
            self._leave()

    def _take_charge(self, pace: float) -> None:
        """The controller wants this supervisor, and no other: what others left is cleared away.

        Not before: one that was asked for by a dead controller, or twice, must harm nobody.
        """
        self._pace = max(_TICK, pace)
        if not self._in_charge:
            self._in_charge = True
            clear_leftovers(self._run_id)
            own_spool(self._spool)

    def _abandoned(self) -> bool:
        since = self._uplink.away_since
        long = since is not None and time.monotonic() - since > _ABANDONED_AFTER
        return long and not self._children and not self._spool.root.exists()

    # -- events -----------------------------------------------------------------------------

    def _install_signals(self) -> None:
        self._wakeup.setblocking(False)
        self._wakeup_in.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_in.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminate)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def _terminate(self, *_: object) -> None:
        # A flag: the handler may have interrupted the very code that it would call.
        self._terminated = True

    def _readable(self, source: object) -> None:
        if source is self._wakeup:
            self._wakeup.recv(4096)
        elif source is self._uplink:
            self._listen()
        else:
            self._take_fork_replies()

    def _listen(self) -> None:
        number = self._uplink.fileno()
        for message in self._uplink.receive():
            self._obey(message)
        if self._uplink.up:
            return
        self._selector.unregister(number)
        if self._outlives and not self._leaving:
            say("the controller is gone; the ranks go on")
        elif not self._leaving:
            self._orphaned = True
            self._leave()

    def _obey(self, message: Message) -> None:
        epoch = int(message.get("epoch", 0))
        if epoch < self._epoch:
            self._note(f"refused a command of controller epoch {epoch}: {self._epoch} is in charge")
            return
        self._epoch = epoch
        match message.get("do"):
            case "warm":
                self._warm(ForkServerPlan.from_document(message["fork_server"]))
            case "start":
                self._start(int(message["attempt"]), message["launches"])
            case "examine":
                self._examine(int(message["attempt"]), float(message["patience"]))
            case "stop":
                self._stop(int(message["attempt"]), float(message["grace"]))
            case "welcome":
                self._take_charge(float(message["pace"]))
            case "leave":
                self._leave()
            case other:
                self._note(f"unknown command {other!r}")

    def _look_out(self) -> None:
        """Pass on what can be seen of the ranks, unless the controller does not keep up."""
        if self._uplink.behind:
            return
        seen = [one for child in self._children.values() for one in child.lookout.look()]
        # The controller measures silence against this clock, not against its own: one that
        # stood still must not take its backlog for a hang.
        now = time.monotonic()
        self._uplink.say({"event": "look", "attempt": self._attempt, "at": now, "seen": seen})

    def _note(self, text: str) -> None:
        say(text)
        self._uplink.say({"event": "note", "text": text})

    # -- starting ---------------------------------------------------------------------------

    def _warm(self, plan: ForkServerPlan) -> None:
        if self._fork.fits(plan):
            return
        self._close_fork_server()
        try:
            self._fork.open(plan)
        except OSError as error:
            self._note(f"the fork server does not start: {error}")
        else:
            self._selector.register(self._fork.fileno(), selectors.EVENT_READ)

    def _close_fork_server(self) -> list[ProcessPlan]:
        """End the fork server; returns the starts that it still owed."""
        if self._fork.fileno() >= 0:
            self._selector.unregister(self._fork.fileno())
        return self._fork.abandon()

    def _start(self, attempt: int, launches: list[Message]) -> None:
        if attempt <= self._attempt:
            self._note(f"attempt {attempt} is not started: {self._attempt} was already")
            return
        self._attempt = attempt
        self._uplink.forget()
        for document in launches:
            launch = ProcessPlan.from_document(document)
            if not self._prepare(launch):
                continue
            if launch.start == "spawn":
                self._spawn(launch)
            elif self._fork.alive:
                self._fork.request(launch)
            else:
                self._without_fork(launch, "there is no fork server")

    def _prepare(self, launch: ProcessPlan) -> bool:
        """Begin the log; refuse a rank whose rank table is not the one that was written."""
        refused = launch.table.changed() if launch.table else ""
        lines = [f"{line}\n" for line in (launch.preamble, refused) if line]
        try:
            if lines:
                with open(launch.log, "a") as log:
                    log.writelines(lines)
        except OSError as error:
            self._start_failed(launch, _why_not_started(launch, error), error.errno)
            return False
        if refused:
            self._start_failed(launch, refused, errno.ESTALE)
        return not refused

    def _take_fork_replies(self) -> None:
        for reply in self._fork.replies():
            if reply.ready is not None:
                self._uplink.say(
                    {"event": "warmed", "seconds": reply.ready, "failed": reply.failed}
                )
            elif reply.launch is None:
                continue
            elif reply.pid is not None:
                self._adopt(reply.launch, reply.pid)
            else:
                self._without_fork(reply.launch, reply.refused or "no reason given")
        if not self._fork.alive and self._fork.fileno() >= 0:
            lost = self._close_fork_server()
            self._note(f"the fork server ended ({len(lost)} starts were pending)")
            for launch in lost:
                self._without_fork(launch, "the fork server ended")

    def _without_fork(self, launch: ProcessPlan, reason: str) -> None:
        """Start a rank plainly after the fork server refused, if the job allows that."""
        if launch.start == "auto":
            self._note(f"{launch.label}: started without the fork server: {reason}")
            self._spawn(launch)
        else:
            self._start_failed(launch, f"launch.start is fork, but: {reason}", None)

    def _spawn(self, launch: ProcessPlan) -> None:
        supervisor = os.getpid()
        try:
            with open(launch.log, "ab") as log:
                process = subprocess.Popen(
                    launch.argv,
                    env=launch.own_environment(),
                    cwd=launch.workdir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=lambda: bind(launch, supervisor),  # this process has one thread
                )
        except OSError as error:
            self._start_failed(launch, _why_not_started(launch, error), error.errno)
            return
        except subprocess.SubprocessError:
            reason = f"CPUs {launch.cpus} cannot be bound: the affinity mask has changed"
            self._start_failed(launch, reason, None)
            return
        process.returncode = 0  # its exit is ours to collect, not Popen's
        self._adopt(launch, process.pid)

    def _start_failed(self, launch: ProcessPlan, reason: str, number: int | None) -> None:
        self._uplink.tell(
            {
                "event": "start_failed",
                "attempt": self._attempt,
                "rank": launch.rank,
                "reason": reason,
                "errno": number,
            }
        )

    def _adopt(self, launch: ProcessPlan, pid: int) -> None:
        identity = processes.identify(pid) or processes.Identity(pid, 0, processes.boot_id())
        now = time.monotonic()
        lookout = Lookout(launch, self._attempt, pid, now)
        self._children[pid] = Child(launch, self._attempt, identity, lookout)
        self._uplink.tell(
            {
                "event": "started",
                "attempt": self._attempt,
                "rank": launch.rank,
                "pid": pid,
                "start_time": identity.start_time,
                "at": now,
            }
        )
        if pid in self._unclaimed:
            self._exited(pid, self._unclaimed.pop(pid), now)

    # -- examining --------------------------------------------------------------------------

    def _examine(self, attempt: int, patience: float) -> None:
        """Look closely at every rank of the attempt; `examined` follows within `patience` s."""
        files, now = self._directory.attempt(attempt), time.monotonic()
        subjects = [
            Subject(child.launch.rank, pid, files.stacks(child.launch.rank))
            for pid, child in self._children.items()
            if child.attempt == attempt and child.launch.rank is not None
        ]
        self._examination = Examination(attempt, subjects, now, now + patience)
        self._examination.begin()
        self._push_examination()

    def _push_examination(self) -> None:
        now = time.monotonic()
        if self._examination is not None and self._examination.over(now):
            self._look_out()  # a rank that went on meanwhile is not hung
            self._uplink.say(self._examination.findings(now))
            self._examination = None

    # -- ends -------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Collect every process that has ended, ours or adopted."""
        if not self._fork.owes:
            # Only a fork that is still to be announced can be among them.
            self._unclaimed.clear()
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            at = time.monotonic()
            _, status = os.waitpid(ended.si_pid, 0)
            if ended.si_pid in self._children:
                self._exited(ended.si_pid, status, at)
            else:
                self._unclaimed[ended.si_pid] = status

    def _exited(self, pid: int, status: int, at: float) -> None:
        child = self._children.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        record = {
            "rank": child.launch.rank,
            "pid": pid,
            "start_time": child.identity.start_time,
            "code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "at": at,
            "time": time.time(),
            "asked": self._stopping is not None,
        }
        self._uplink.say_all(child.lookout.beats())
        self._uplink.keep(child.lookout.last_words())
        # Say it first: the record is for whoever comes later, the controller waits now.
        self._uplink.tell({"event": "exit", "attempt": child.attempt, **record})
        try:
            append_line(self._directory.attempt(child.attempt).exits, record)
        except OSError as error:
            self._note(f"could not record the exit of {child.launch.label}: {error}")

    def _stop(self, attempt: int, grace: float) -> None:
        """End every process of the attempt: TERM and `grace` seconds, or KILL at once.

        `attempt` may be one that was never started: its controller was killed just before.
        """
        self._reap()  # what ended before this moment ended by itself
        self._examination = None
        if self._fork.owes:
            self._close_fork_server()  # a fork that comes later would belong to nobody
        now = time.monotonic()
        if grace > 0:
            for pid in list(self._children):
                _signal_group(pid, signal.SIGTERM)
        self._stopping = Stopping(attempt, now + grace, now + grace + _STOP_TIMEOUT)
        self._push_stop()

    def _push_stop(self) -> None:
        assert self._stopping is not None
        now = time.monotonic()
        left = [pid for pid in processes.descendants(os.getpid()) if pid not in self._fork.pids]
        if left and now >= self._stopping.kill_at:
            for pid in left:
                # A process group reaches children that are being forked right now.
                _signal_group(pid, signal.SIGKILL)
                processes.kill_quietly(pid)
        # The threads of a process whose leader is a zombie may still run.
        if (left or self._children) and now < self._stopping.give_up_at:
            return
        stuck = [{"pid": pid, "state": processes.state_of(pid)} for pid in left]
        self._uplink.tell(
            {"event": "stopped", "attempt": self._stopping.attempt, "at": now, "stuck": stuck}
        )
        self._stopping = None

    def _leave(self) -> None:
        self._leaving = True
        self._stop(self._attempt, 0)

    def _end(self) -> None:
        """Take the fork server and the spool away; explain an end that nobody ordered."""
        if self._orphaned:
            self._explain_orphaned()
        self._close_fork_server()
        _await_end(lambda: not processes.descendants(os.getpid()), _STOP_TIMEOUT)
        if self._orphaned:
            clear_ray(self._spool)
        self._uplink.hang_up()
        # One that was told to end by somebody else leaves it: the controller listens there.
        if self._in_charge and not self._terminated:
            self._spool.remove()

    def _explain_orphaned(self) -> None:
        event = {
            "time": time.time(),
            "kind": "controller_lost",
            "attempt": self._attempt,
            "reason": "the controller ended without a word; its ranks were stopped",
        }
        try:
            append_line(self._directory.events, event)
        except OSError as error:
            say(f"could not write {self._directory.events}: {error}")


def clear_leftovers(run_id: str) -> None:
    """Kill what a dead predecessor of this run left behind, and wait until it is gone."""
    left = processes.clear_marked(MARK, run_id, _STOP_TIMEOUT)
    if left:
        say(f"processes of an earlier attempt do not die: {left}")


def say(text: str) -> None:
    """A line for supervisor.log, which may lie on a full disk."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def clear_ray(spool: Spool) -> None:
    """After the controller's death: Ray's keeper cleans up by itself; see that it did."""
    if _await_end(lambda: not spool.ray.exists(), _RAY_GRACE):
        return
    for pid in processes.mentioning(str(spool.ray)):
        if pid != os.getpid():
            processes.kill_quietly(pid)


def _await_end(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _signal_group(pid: int, number: int) -> None:
    """Signal the process group that `pid` leads; every rank leads its own."""
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _why_not_started(launch: ProcessPlan, error: OSError) -> str:
    if isinstance(error, Unusable):
        return str(error.strerror)
    if error.filename in (launch.workdir, launch.log):
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        return f"{launch.argv[0]}: no such program (looked for from {launch.workdir})"
    if isinstance(error, PermissionError):
        return f"{launch.argv[0]}: not executable: {error.strerror}"
    return f"{launch.argv[0]}: {error}"


def own_spool(spool: Spool) -> None:
    """Leave word that this process uses the spool, so that nobody takes it for a dead run's."""
    identity = processes.identify(os.getpid())
    with contextlib.suppress(OSError):
        write_json(spool.user, asdict(identity) if identity else {})


def main() -> None:
    """Dial the controller and serve it."""
    run_id, run_dir, spool_document, kind = sys.argv[1:]
    spool = Spool.from_document(json.loads(spool_document))
    supervisor = Supervisor(run_id, RunDirectory(Path(run_dir)), spool, outlives=kind == "service")
    try:
        supervisor.run()
    except OSError as error:
        sys.exit(f"no controller on {spool.socket}: {error}")


if __name__ == "__main__":
    main()
