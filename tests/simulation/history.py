"""One random history: a job, a machine, faults and orders at any moment, and who drives it.

The head of this simulation follows `service.drive` and `service.head`; a run of its own follows
`local_run`. Everything is drawn from the seed, so a history that broke something breaks it again.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cluster.cpu import CpuBudget
from cluster.device import Device, Inventory, Node
from orchestrator import adoption, controller, devices, keeper, layout, oom, world
from orchestrator.controller import Controller, Outcome
from orchestrator.found import LOCAL, Found
from orchestrator.journal import JournalError
from orchestrator.layout import SHARED_RAY, RunDirectory, Spool, write_json
from orchestrator.ledger import fold
from orchestrator.orders import Order, OrderKind
from orchestrator.spec import (
    DEFAULT_BUDGETS,
    Backoff,
    Checkpoint,
    DeviceKind,
    Health,
    JobSpec,
    Launch,
    LaunchMode,
    Limits,
    Resources,
    Restart,
    StartMethod,
)
from orchestrator.states import FailureClass, JobState
from orchestrator.status import RunView, view_from_disk
from tests.simulation.clock import Clock
from tests.simulation.faults import FAULTS
from tests.simulation.log import MemoryLog
from tests.simulation.machine import Machine
from tests.simulation.node import Endless, Fate, Killed, SimulatedNode
from tests.simulation.ranks import Script
from tests.simulation.watch import Broken, Watch

BOUND = 30_000.0
"""Virtual seconds within which every history has ended."""

_BASE = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
_CPUS = CpuBudget(cpus=tuple(range(8)))


@dataclass(frozen=True)
class Ended:
    """What became of a history."""

    seed: int
    state: JobState
    attempts: int
    failures: int
    deaths: int
    """Of controllers."""
    faults: tuple[str, ...]
    seconds: float
    from_snapshots: int = 0
    promoted: int = 0
    shrunk: int = 0
    grown: int = 0


@dataclass(frozen=True)
class Plot:
    """A history of which a part is given: `faults` with their times.

    `away`: seconds from the death of a controller to the next one; `served`: by a head;
    `shrinks`: a long job that may have to do with fewer devices.
    """

    faults: tuple[tuple[float, str], ...]
    away: float
    served: bool = True
    shrinks: bool = False


def play(seed: int, plot: Plot | None = None) -> Ended:
    """Play one history. Raises Broken with the seed and all that happened."""
    history = History(seed, plot)
    try:
        with history.stage():
            return history.play()
    except AssertionError as error:
        raise Broken(f"{error}\nseed {seed}:\n" + "\n".join(history.told)) from error
    finally:
        history.strike()


class _Later:
    """The outcome of work in a thread, which takes its time."""

    def __init__(self, clock: Clock, seconds: float, work: Callable[[], Any]) -> None:
        self._clock = clock
        self._due = clock.now + seconds
        self._work: Callable[[], Any] | None = work
        self._result: Any = None

    def done(self) -> bool:
        return self._clock.now >= self._due

    def result(self) -> Any:
        self._clock.sleep(max(0.0, self._due - self._clock.now))
        if self._work is not None:
            work, self._work = self._work, None
            self._result = work()
        return self._result

    def exception(self) -> None:
        self.result()


class _Leases:
    """Devices that controllers hold; they lose them with their life."""

    held: set[str]

    def __init__(self) -> None:
        self._own: set[str] = set()

    def take(self, wanted: list[Device], scope: str = "") -> dict[str, str]:
        keys = {device.key for device in wanted}
        taken = (keys - self._own) & self.held
        if taken:
            return dict.fromkeys(taken, "another run")
        self.release()
        self._own = keys
        self.held |= keys
        return {}

    def release(self) -> None:
        self.held -= self._own
        self._own = set()


class History:
    """See the module."""

    def __init__(self, seed: int, plot: Plot | None = None) -> None:
        self.seed = seed
        self.plot = plot
        self.dice = dice = random.Random(seed)
        self.clock = Clock()
        self.told: list[str] = []
        self.root = Path(tempfile.mkdtemp(prefix="simulation-", dir=_BASE))
        self.directory = RunDirectory(self.root / "run")
        self.directory.checkpoints.mkdir(parents=True)
        self.shrinks = dice.random() < 0.1 if plot is None else plot.shrinks
        """A long job that will have to do with fewer devices, and may."""
        self.script = script(dice, long=self.shrinks)
        self.spec = spec(dice, self.root, self.script, shrinks=self.shrinks)
        self.served = dice.random() < 0.7 if plot is None else plot.served
        """Driven by a head; else a run of its own."""
        self.watch = Watch(
            self.spec, self.clock, self.script.every, self.script.can_stop, self._enough
        )
        self.machine = Machine(
            self.clock, dice, self.script, self.directory, self.watch, outlives=self.served,
            pace=dice.choice([1.0, 1.0, 2.0]),
        )  # fmt: skip
        self.log = MemoryLog(self.clock, self._recorded)
        self.log.waits = self.served
        self.lost: set[int] = set()
        """Devices that are not well."""
        self.until: dict[int, float] = {}
        """When each of them is well again."""
        self.controller: Controller | None = None
        self.node: SimulatedNode | None = None
        self.spool: Spool | None = None
        self.epoch = 0
        self.deaths = 0
        self.resumes = dice.randrange(2) if self.served else 0
        """How often a person resumes it once it has ended."""
        self.settled = dice.choice([5.0, 60.0])
        """Seconds of training in a smaller world before a job may grow."""
        self.ambush = ""
        """A fault that comes as soon as the job begins to grow."""
        self.tmpfs = self.root / "tmpfs"
        self.tmpfs.mkdir()
        self.bound = self.clock.now + BOUND
        self.leases: set[str] = set()

    # -- around it --------------------------------------------------------------------------

    @contextlib.contextmanager
    def stage(self) -> Iterator[None]:
        """Put what is simulated in the place of what is real."""
        executor = self._executor()
        leases = type("Leases", (_Leases,), {"held": self.leases})
        with self.clock.installed(), contextlib.ExitStack() as stack:
            for target, name, value in (
                (keeper, "ThreadPoolExecutor", executor),
                (devices, "ThreadPoolExecutor", executor),
                (devices, "Leases", leases),
                (controller, "lease_port", lambda: 20_000),
                (controller, "view_from_disk", self._view_from_disk),
                (layout, "_TMPFS", self.tmpfs),
                (world, "SETTLED", self.settled),
                (adoption, "lives", self._lives),
                (adoption, "kill", self._kill),
                (oom, "kills_counted", lambda: self.machine.oom_kills),
            ):
                stack.enter_context(patch.object(target, name, value))
            yield

    def strike(self) -> None:
        """Leave no file."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _executor(self) -> Any:
        clock, dice = self.clock, self.dice

        class Executor:
            def __init__(self, *_: Any, **__: Any) -> None:
                pass

            def submit(self, work: Callable[..., Any], *arguments: Any) -> _Later:
                return _Later(clock, dice.choice([0.0, 0.1, 2.0]), lambda: work(*arguments))

            def shutdown(self, **_: Any) -> None:
                pass

        return Executor

    def _recorded(self, event: Any) -> None:
        state = f" → {event.state.value}" if event.state else ""
        self.say(f"[{event.attempt}] {event.kind}{state}: {event.reason}")
        gang = self.machine.gang
        self.watch.finished = gang is not None and gang.done
        self.watch.event(event)
        if event.kind == "growing" and self.ambush:
            name, self.ambush = self.ambush, ""
            self.clock.after(self.dice.choice([0.0, 0.5, 3.0]), lambda: self._break(name))

    def say(self, text: str) -> None:
        """A line for whoever reads a history that broke something."""
        self.told.append(f"{self.clock.now - 10_000:9.2f} {text}")

    def _identity(self, identity: Any) -> Any:
        pid = identity["pid"] if identity else None
        return next((s for s in self.machine.supervisors if s.pid == pid and s.alive), None)

    def _lives(self, identity: Any) -> bool:
        return self._identity(identity) is not None

    def _kill(self, identity: Any) -> None:
        supervisor = self._identity(identity)
        if supervisor is not None:
            self.watch.harm("node")
            supervisor.die()

    def _view_from_disk(self, directory: RunDirectory) -> RunView:
        self.log.write(directory.events)
        number = self.watch.attempt
        ranks = [p for p in self.machine.processes if p.rank is not None and p.attempt == number]
        with contextlib.suppress(FileNotFoundError):
            beats = {str(p.rank): p.beat for p in ranks}
            write_json(directory.attempt(number).beats, beats, durable=False)
        return view_from_disk(directory)

    def find(self) -> Found:
        """The node with its devices as they are now."""
        resources = self.spec.resources
        if resources.device.is_slot:
            return Found(Inventory((Node(LOCAL, "127.0.0.1", _CPUS),)))
        all_of_it = tuple(
            Device(resources.device, LOCAL, index, uuid=f"GPU-{index}")
            for index in range(resources.ranks + 1)
        )
        bad = {d.key: "it fell off the bus" for d in all_of_it if d.index in self.lost}
        inventory = Inventory((Node(LOCAL, "127.0.0.1", _CPUS, all_of_it),))
        return Found(inventory, withheld=bad, unwell=bad)

    def _enough(self) -> bool:
        return len(self.lost) <= 1  # there is one more than ranks

    def lose_devices(self, indices: set[int], seconds: float) -> None:
        """They are not well for so long."""
        since = self.clock.now
        self.lost |= indices
        self.until |= dict.fromkeys(indices, since + seconds)
        if not self._enough():
            self.watch.well_since = None

        def back() -> None:
            self.lost = {one for one in self.lost if self.until[one] > self.clock.now}
            if self._enough() and self.watch.well_since is None:
                self.watch.well_since = self.clock.now

        self.clock.after(seconds, back)

    def lose_tmpfs(self) -> None:
        """All of it."""
        self.watch.lose_saved()
        for place in self.tmpfs.iterdir():
            shutil.rmtree(place)

    # -- playing ----------------------------------------------------------------------------

    def play(self) -> Ended:
        """Faults are drawn first; then the job is driven until it has ended for good."""
        faults = self.plot.faults if self.plot else self._drawn()
        for at, name in faults:
            self.clock.after(at, lambda name=name: self._break(name))
        self.log.record("created", "a job", state=JobState.QUEUED)
        while self._drive():
            pass
        self._check_end()
        return Ended(
            self.seed, self.watch.state, self.watch.attempt, self.watch.failures, self.deaths,
            tuple(name for _, name in faults), self.clock.now - 10_000,
            self.watch.resumed_snapshots, self.watch.promoted, self.watch.shrunk, self.watch.grown,
        )  # fmt: skip

    def _drawn(self) -> list[tuple[float, str]]:
        weights = {name: fault.weight for name, fault in FAULTS.items()}
        if self.shrinks:
            weights["while-it-grows"] *= 5
        names = self.dice.choices(list(weights), list(weights.values()),
                                  k=self.dice.choice([0, 1, 1, 2, 3, 5, 8]))  # fmt: skip
        lasts = 40 + self.script.steps * self.script.step_seconds
        faults = [(self.dice.uniform(0, 2 * lasts), name) for name in names]
        first = [(self.dice.uniform(30, 60), "lose-devices")] if self.shrinks else []
        return first + faults

    def _break(self, name: str) -> None:
        if not self.watch.state.terminal:
            self.say(f"    fault {name}")
            self.watch.disturb()
            FAULTS[name].inject(self)

    def _drive(self) -> bool:
        """Whoever drives it now does; whether there is more to be done."""
        if self.clock.now > self.bound:
            raise Endless(f"no end within {BOUND:.0f} s")
        state = self.watch.state
        if state.terminal:
            if not self.resumes or state is JobState.SUCCEEDED:
                return False
            self.resumes -= 1
            self.clock.sleep(10)
            self.log.record("again", "resumed by a person", state=JobState.QUEUED)
        elif state is JobState.HELD:
            self.clock.sleep(self.dice.uniform(1, 60))
            if self.watch.state is JobState.HELD:
                self.log.record("released", "released by a person", state=JobState.QUEUED)
        elif state is JobState.QUEUED and not self._enough():
            self.clock.sleep(5)
        else:
            return self._one_life()
        return True

    def _one_life(self) -> bool:
        """One controller from its start to its end or death."""
        self.watch.disturb()
        fate = Fate(self.dice.randrange(1, 600) if self._mortal() else None)
        self.log.fate = fate
        outcome: Outcome | None = None
        try:
            self._enter(fate)
            assert self.controller is not None
            outcome = self.controller.run()
        except Killed:
            self._die()
        except JournalError:
            outcome = Outcome.FAILED  # as `local_run.drive` takes it
        node, self.node, self.controller = self.node, None, None
        self.log.fate = Fate()
        if outcome is None or node is None:
            return True
        if outcome is Outcome.DETACHED and self.watch.state.holds_devices:
            node.detach()
            self.clock.sleep(5)
            return True
        node.close()
        return self.served or not self.log.full_until

    def _mortal(self) -> bool:
        return self.served and not self.plot and self.deaths < 6 and self.dice.random() < 0.4

    def _enter(self, fate: Fate) -> None:
        ledger = fold(self.log.events())
        adopts = ledger.state.holds_devices
        if not self.epoch:
            self.epoch = 1
        if not adopts or self.spool is None:
            adopts or self.machine.clear()
            self.spool = Spool(Path(tempfile.mkdtemp(prefix="muster-", dir=self.root)), SHARED_RAY)
        entry = self.log.append(
            "controller", f"epoch {self.epoch}", attempt=ledger.attempt, run_id="simulated",
            state=None if adopts else JobState.QUEUED, epoch=self.epoch,
            spool=self.spool.to_document(),
        )  # fmt: skip
        ledger.apply(entry)
        self.node = SimulatedNode(
            self.machine, self.spool, fate, epoch=self.epoch, bound=self.bound
        )
        self.controller = Controller(
            spec=self.spec,
            directory=self.directory,
            spool=self.spool,
            node=self.node,  # type: ignore[arg-type]
            find=self.find,
            environment={},
            watcher=_Nobody(),
            log=self.log,
            adopts=adopts,
            queued=self.served,
            rest=self.dice.choice([1.0, 5.0]),
            known=ledger,
        )

    def _die(self) -> None:
        """The kernel takes what it held; some time later there is another head."""
        self.say("    the controller is dead")
        self.deaths += 1
        self.epoch += 1
        self.leases.clear()
        self.log.fate = Fate()
        if self.node is not None:
            self.node.detach()
        away = self.plot.away if self.plot else self.dice.choice([0.05, 1.0, 20.0, 200.0])
        self.clock.sleep(away)
        if not self.watch.state.holds_devices:
            self._take_away()

    def _take_away(self) -> None:
        """As `service.remains`: nothing is left of a job that holds nothing, and no order open."""
        self.machine.clear()
        if self.spool is not None:
            self.spool.remove()
        order = fold(self.log.events()).order
        if order is not None:
            self.order(order.kind, order.reason)

    def order(self, kind: OrderKind, reason: str, *, preempts: bool = False) -> None:
        """As the head's `order`: on record first, then the controller is told."""
        state = self.watch.state
        if state.terminal or (state is JobState.HELD and kind is OrderKind.HOLD):
            return
        by_name = kind in (OrderKind.CANCEL, OrderKind.HOLD)
        moves = {OrderKind.CANCEL: ("cancelled", JobState.CANCELLED),
                 OrderKind.HOLD: ("held", JobState.HELD)}  # fmt: skip
        if by_name and not state.holds_devices and self.controller is None:
            name, to = moves[kind]
            self.log.record(name, reason, attempt=self.watch.attempt, state=to)
        elif by_name and self.served:
            data = {"order": kind.value}
            self.log.record("ordered", reason, attempt=self.watch.attempt, **data)
        if self.controller is not None:
            self.controller.give(Order(kind, reason, preempts=preempts))

    def _check_end(self) -> None:
        """Nothing of it runs or is held."""
        machine = self.machine
        alive = [s.pid for s in machine.supervisors if s.alive]
        for holds, what in (
            (not machine.living, f"processes run: {[p.rank for p in machine.living]}"),
            (not alive, f"supervisors run: {alive}"),
            (machine.ports == 0, f"{machine.ports} ports are leased"),
            (not self.leases, f"devices are leased: {self.leases}"),
            (self.spool is None or not self.spool.root.exists(), "the spool is there"),
            (self._given_back(), f"tmpfs holds {[p.name for p in self.tmpfs.iterdir()]}"),
        ):
            if not holds:
                raise Broken(f"after the end {what}")

    def _given_back(self) -> bool:
        """What a run that is over has in tmpfs; a killed controller may owe that to the next."""
        over = self.watch.state in (JobState.SUCCEEDED, JobState.CANCELLED)
        excused = self.deaths or self.log.was_full or not over
        return bool(excused) or not list(self.tmpfs.iterdir())


class _Nobody:
    """Shows nothing."""

    def event(self, event: Any) -> None:
        """Nobody looks."""

    def tick(self, controller: Controller) -> None:
        """Nobody looks."""


def script(dice: random.Random, *, long: bool) -> Script:
    """What the job's script is like."""
    return Script(
        steps=dice.randrange(50, 100) if long else dice.randrange(5, 40),
        every=dice.randrange(2, 12),
        step_seconds=dice.choice([0.5, 1.0, 3.0]),
        init=dice.choice([0.5, 3.0]),
        join=dice.choice([0.5, 6.0]),
        compile=dice.choice([1.0, 20.0]),
        save=dice.choice([0.2, 3.0]),
        evaluate_every=dice.choice([0, 0, 7]),
        evaluate=dice.choice([5.0, 200.0]),
        can_stop=dice.random() < (0.9 if long else 0.7),
        obeys_term=dice.random() < 0.7,
        proves=dice.random() < 0.7,
        leaves_within=dice.choice([0.1, 2.0, 50.0]),
    )


def spec(dice: random.Random, workdir: Path, about: Script, *, shrinks: bool) -> JobSpec:
    """The job: few restarts, so that budgets come to their ends."""
    device = DeviceKind.GPU if shrinks else dice.choice([DeviceKind.CPU, DeviceKind.GPU])
    ranks = dice.choice([2, 4, 6] if shrinks else [1, 2, 4])
    least = 1 if shrinks else dice.choice([n for n in (1, 2, 4) if ranks % n == 0])
    mode = dice.choice([LaunchMode.NONE, LaunchMode.DYNAMIC])
    charged = (
        FailureClass.PROCESS, FailureClass.HANG, FailureClass.NODE, FailureClass.STORAGE,
        FailureClass.RENDEZVOUS, FailureClass.DEVICE, FailureClass.OOM, FailureClass.NUMERIC,
    )  # fmt: skip
    budgets = {**DEFAULT_BUDGETS, **{name: dice.randrange(4) for name in charged}}
    return JobSpec(
        name="simulated",
        command=("train",),
        workdir=workdir,
        resources=Resources(device=device, ranks=ranks, ranks_per_node=ranks),
        launch=Launch(mode=mode, start=StartMethod.SPAWN),
        checkpoint=Checkpoint(
            every_steps=about.every,
            keep=dice.randrange(1, 4),
            snapshot_every_steps=dice.choice([None, 1, 2, 5]),
        ),
        health=Health(heartbeat_timeout=dice.choice([None, None, 20.0])),
        restart=Restart(
            min_ranks=least,
            budgets=budgets,
            backoff=Backoff(first=dice.choice([0.0, 1.0]), max=dice.choice([2.0, 60.0])),
            no_progress=dice.randrange(2, 5),
        ),
        limits=Limits(wait=dice.choice([0.0, 60.0])),
    )
