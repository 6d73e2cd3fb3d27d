"""Everything that can befall a simulated run, and what a failure of it may be called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator import checkpoints
from orchestrator.orders import OrderKind
from tests.simulation.ranks import Process

if TYPE_CHECKING:
    from tests.simulation.history import History


@dataclass(frozen=True)
class Fault:
    """How it is done, and how often it is drawn beside the others."""

    inject: Callable[[History], None]
    weight: int = 1


def _victim(history: History) -> Process | None:
    ranks = [p for p in history.machine.living if p.rank is not None and not p.orphan]
    return history.dice.choice(ranks) if ranks else None


def _signal(*numbers: int) -> Callable[[History], None]:
    def kill(history: History) -> None:
        victim = _victim(history)
        if victim is not None:
            number = history.dice.choice(numbers)
            history.watch.harm("preemption" if number == 15 else "process")
            victim.end(signal=number)

    return kill


def _exit(history: History) -> None:
    victim = _victim(history)
    if victim is not None:
        history.watch.harm("process", "user", "preemption")
        victim.end(code=history.dice.choice([0, 1, 3, 75]))


def _mistake(history: History) -> None:
    victim = _victim(history)
    if victim is not None:
        history.watch.harm("user")
        victim.end(code=65)


def _raise(history: History) -> None:
    victim = _victim(history)
    gang = history.machine.gang
    if victim is not None and gang is not None and victim.rank in gang.ranks:
        kind, name = history.dice.choice(
            [("RuntimeError", "process"), ("FloatingPointError", "numeric"), ("MemoryError", "oom")]
        )
        history.watch.harm(name, "user", "process")
        gang.raises(victim.rank, kind, "as told")


def _oom(history: History) -> None:
    victim = _victim(history)
    if victim is not None:
        # Whoever takes the run over does not know how many there were before.
        history.watch.harm("oom", "process")
        history.machine.oom_kills += 1
        victim.end(signal=9)


def _hang(history: History) -> None:
    victim = _victim(history)
    if victim is not None:
        history.watch.harm("hang")
        victim.stuck = True


def _stop(history: History) -> None:
    victim = _victim(history)
    if victim is not None:
        history.watch.harm("hang")
        victim.stopped = True


def _pause(history: History) -> None:
    """For a moment only: nobody may call that a failure."""
    victim = _victim(history)
    gang = history.machine.gang
    if victim is None or gang is None or history.spec.health.heartbeat_timeout:
        return
    victim.stopped = True

    def cont() -> None:
        history.watch.disturb()
        victim.stopped = False
        gang.go_on()

    history.clock.after(history.dice.uniform(0.1, 30), cont)


def _scheduler(history: History) -> None:
    found = [p for p in history.machine.living if p.rank is None and not p.orphan]
    if not found:
        return
    history.watch.harm("rendezvous")
    if history.dice.random() < 0.5:
        # Nobody's fault, and charged to no budget.
        log = history.directory.attempt(found[0].attempt).log(None)
        if log.parent.is_dir():
            log.write_text("bind: Address already in use")
    found[0].end(code=history.dice.choice([1, None]), signal=11)


def _supervisor(history: History) -> None:
    supervisor = history.machine.supervisor
    if supervisor is not None:
        history.watch.harm("node")
        supervisor.die()


_FOR_EVER = 1e6


def _freeze(history: History) -> None:
    """It stands still, as a machine does that swaps."""
    supervisor = history.machine.supervisor
    if supervisor is not None:
        seconds = history.dice.choice([1.0, 10.0, 50.0, _FOR_EVER])
        supervisor.freeze(seconds)
        history.clock.after(min(seconds, 150.0), history.watch.disturb)


def _lag(history: History) -> None:
    """Messages are late for a while."""
    supervisor = history.machine.supervisor
    if supervisor is None or supervisor.link is None:
        return
    link = supervisor.link
    link.lag = history.dice.choice([0.2, 3.0, 20.0])

    def over() -> None:
        history.watch.disturb()
        link.lag = 0.0

    history.clock.after(history.dice.uniform(1, 40), over)


def _ray(history: History) -> None:
    if history.node is not None:
        history.node.tell({"event": "ray_lost", "text": "Ray was lost; the ranks go on"})


def _refusing_ray(history: History) -> None:
    if history.node is not None:
        history.node.broken += ["Ray does not answer"] * history.dice.choice([1, 1, 5])


def _no_process(history: History) -> None:
    history.machine.refused_starts += 1


def _full_disk(history: History) -> None:
    seconds = history.dice.choice([2.0, 30.0, 200.0])
    history.log.full_until = history.clock.now + seconds
    history.clock.after(seconds, history.watch.disturb)


def _checkpoint(history: History) -> None:
    paths = history.machine.checkpoint_paths()
    if not paths:
        return
    path = history.dice.choice(paths[:2])
    file = path / history.dice.choice([checkpoints.MODEL, checkpoints.MANIFEST])
    if not file.exists():
        return
    match history.dice.randrange(3):
        case 0:
            file.write_bytes(file.read_bytes()[:-7])
        case 1:
            file.unlink()
        case 2:
            file.write_bytes(b"\0" + file.read_bytes()[1:])
    history.watch.whole.discard(int(path.name.removeprefix("step-")))
    history.watch.excused = True
    history.watch.harm("storage")


def _snapshot(history: History) -> None:
    """A file of a slot is cut short, or is gone, or is no such file at all."""
    # While they run, ranks seal again: what is done to a seal may be mended.
    files = sorted(history.tmpfs.glob("*/slot-*/*" + (".ckpt" if history.machine.living else "")))
    if not files:
        return
    file = history.dice.choice(files)
    history.watch.lose_saved(file.parent)
    history.watch.harm("storage")
    match history.dice.randrange(3):
        case 0:
            file.write_bytes(file.read_bytes()[:-7])
        case 1:
            file.unlink()
        case 2:
            file.write_text("{")


def _tmpfs(history: History) -> None:
    """Somebody, as systemd-logind does, removes what lies in tmpfs."""
    history.lose_tmpfs()
    history.watch.harm("storage")


def _device(history: History) -> None:
    """The device of a rank is lost, its process dies; it comes back some time later."""
    victim = _victim(history)
    controller = history.controller
    if victim is None or history.spec.resources.device.is_slot or controller is None:
        return
    placement = controller.placement
    if placement is None or len(placement.assignments) <= victim.rank:
        return
    index = placement.assignments[victim.rank].device.index
    history.lose_devices({index}, history.dice.choice([1.0, 30.0, 300.0]))
    history.watch.harm("device", "process")
    victim.end(signal=7)


def _devices(history: History) -> None:
    """Some are lost for a long time, that of a rank among them: the world has to be smaller."""
    victim = _victim(history)
    count = history.spec.resources.ranks + 1
    if victim is None or history.spec.resources.device.is_slot:
        return
    lost = history.dice.sample(range(count), k=history.dice.randrange(2, count + 1))
    history.lose_devices(set(lost), history.dice.choice([30.0, 100.0, 400.0]))
    history.watch.harm("device", "process")
    victim.end(signal=7)


def _while_it_grows(history: History) -> None:
    """Something else, as soon as the job begins to grow."""
    history.ambush = history.dice.choice(
        ["kill-controller", "kill-rank", "exit-rank", "kill-supervisor", "lose-devices", "reboot",
         "hold", "requeue", "cancel", "stop-rank", "freeze-supervisor", "break-checkpoint"]
    )  # fmt: skip


def _kill_controller(history: History) -> None:
    if history.served and history.deaths < 8:
        history.log.fate.doomed = True


def _reboot(history: History) -> None:
    """The power fails: controller, supervisor and ranks are gone at once."""
    if history.served and history.controller is not None:
        history.watch.harm("node")
        history.machine.clear()
        history.lose_tmpfs()
        history.log.fate.doomed = True


def _order(kind: OrderKind, *, preempts: bool = False) -> Callable[[History], None]:
    def order(history: History) -> None:
        if history.served or kind is OrderKind.CANCEL:
            history.order(kind, f"{kind.value} by somebody", preempts=preempts)

    return order


def _terminate(history: History) -> None:
    """The machine is wanted back: a run of its own saves itself, and is resumed later."""
    if not history.served:
        history.resumes += 1
        history.order(OrderKind.PREEMPT, "SIGTERM")


FAULTS = {
    "kill-rank": Fault(_signal(9, 11, 15), 6),
    "exit-rank": Fault(_exit, 4),
    "mistake": Fault(_mistake),
    "raise": Fault(_raise, 4),
    "oom-rank": Fault(_oom, 2),
    "hang-rank": Fault(_hang, 3),
    "stop-rank": Fault(_stop, 3),
    "pause-rank": Fault(_pause, 3),
    "kill-scheduler": Fault(_scheduler, 4),
    "kill-supervisor": Fault(_supervisor, 4),
    "freeze-supervisor": Fault(_freeze, 4),
    "late-messages": Fault(_lag, 4),
    "lose-ray": Fault(_ray),
    "refuse-reservation": Fault(_refusing_ray, 2),
    "no-process": Fault(_no_process, 2),
    "full-disk": Fault(_full_disk, 2),
    "break-checkpoint": Fault(_checkpoint, 6),
    "break-snapshot": Fault(_snapshot, 3),
    "lose-tmpfs": Fault(_tmpfs),
    "lose-device": Fault(_device, 5),
    "lose-devices": Fault(_devices, 5),
    "while-it-grows": Fault(_while_it_grows, 3),
    "kill-controller": Fault(_kill_controller, 6),
    "reboot": Fault(_reboot, 2),
    "cancel": Fault(_order(OrderKind.CANCEL)),
    "hold": Fault(_order(OrderKind.HOLD), 2),
    "requeue": Fault(_order(OrderKind.REQUEUE), 2),
    "preempt": Fault(_order(OrderKind.REQUEUE, preempts=True), 2),
    "terminate": Fault(_terminate, 3),
    "detach": Fault(_order(OrderKind.DETACH)),
}
"""By name; those that a real link, kernel or person can do at any moment."""
