"""A rank for tests: counts steps, keeps real checkpoints, and fails as it is told.

    worker.py --steps=N [--pause=S] [--fail=HOW@STEP] [--rank=R] [--always=true] [--stay=S]
              [--digests=EVERY] [--slow=SECONDS] [--slow_from=STEP] [--slow_to=STEP] [--wait=S]
              [--snapshot_pause=S] [--deaf=true] [--long=PHASE:S]

Its state is a function of all steps of all ranks: a digest that each step folds every rank's own
digest into. With `--stay` it passes through every phase of the contract, S seconds each: a
snapshot (if none is asked for: in name) after steps 22, 32, …, an evaluation after 26, 36, ….

HOW: raise, exit-CODE, leave (exit 0 without done), hang (asleep in Python), data-hang (waits for a
batch that never comes), stop (by SIGSTOP), all-hang (every rank, in the barrier), nan (a loss that
is none), diverge (its digests, told every so many steps, are others than its peers' from then
on), die-in-snapshot (kill -9 of itself with half of its file written). It fails on rank R (default
1), in the first attempt only unless `always`; step 0 is before the first step. Rank R computes
`slow` seconds longer in every step, and says that it waited `wait` for data. Snapshots are taken
where the job asks for them. A `deaf` one never asks whether it should stop. Rank 0 may
be `long` in a phase, after step 2 or, to compile, before its first; its peers wait in a barrier.
"""

import hashlib
import json
import os
import queue
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.rank import Rank
from orchestrator.snapshot_slots import Slots


@dataclass(frozen=True)
class State:
    """What training has come to: `own` has a digest of each rank, `all` one of all of them."""

    step: int
    all: str
    own: list[str]

    def content(self, size: int) -> bytes:
        """A file of so many bytes that holds it."""
        return f"{self.step} {self.all} {','.join(self.own)} ".ljust(size, "x").encode()


def main() -> None:
    """Train nothing, properly."""
    options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    rank = Rank.from_env()
    say_started(rank)
    stay = float(options.get("stay", "0"))
    be_in(rank, "init", stay)
    be_in(rank, "join", stay)
    rank.phase("load")
    time.sleep(stay)
    state = load(rank) if rank.resume_from else State(0, "", [""] * rank.world_size)
    start = state.step
    fail_if_told(rank, options, 0)
    be_in(rank, "compile", stay)
    be_long(rank, options, {"compile"})
    rank.phase("train")
    steps = int(options["steps"])
    slots = rank.snapshots()
    for step in range(start + 1, steps + 1):
        time.sleep(float(options.get("pause", "0.02")))
        waited = be_slow(rank, options, step)
        state = keep_step(rank, state)
        bad = told(rank, options, "nan", step)
        loss = float("nan") if bad else 1.0 / step
        rank.step(step, loss=loss, images=2, total=steps, data_wait=waited)
        tell_digest(rank, options, step)
        if step == 2:
            be_long(rank, options, {"checkpoint", "evaluate"})
        if options.get("deaf") != "true" and rank.should_stop(step) and step < steps:
            if rank.rank == 0:
                save(rank, state, stay)
            sys.exit(75)
        keep(rank, slots, state, options)
        if step > 20:
            be_in(rank, {2: "snapshot", 6: "evaluate"}.get(step % 10), stay)
        if stay:
            rank.phase("train")
        fail_if_told(rank, options, step)
    print(f"rank {rank.rank} counted from {start} to {steps}", flush=True)
    if rank.rank == 0:
        rank.report("count", f"counted to {steps}")
    rank.done()


def keep(rank: Rank, slots: Slots | None, state: State, options: dict[str, str]) -> None:
    """Write the checkpoint or the snapshot that is due."""
    every, stay = rank.checkpoint_every, float(options.get("stay", "0"))
    if every and state.step % every == 0:
        if stay:
            rank.phase("checkpoint")
        if rank.rank == 0:
            save(rank, state, stay)
        else:
            time.sleep(stay)
    elif slots is not None and slots.due(state.step):
        take_snapshot(rank, slots, state, options)


def be_in(rank: Rank, phase: str | None, stay: float) -> None:
    """Spend time in a phase, where the job is to pass through all of them."""
    if stay and phase is not None:
        rank.phase(phase)
        time.sleep(stay)


def be_long(rank: Rank, options: dict[str, str], phases: set[str]) -> None:
    """Rank 0 is long in a phase; its peers wait in the next barrier."""
    phase, _, seconds = options.get("long", "").partition(":")
    if phase in phases and rank.rank == 0:
        rank.phase(phase)
        time.sleep(float(seconds))
        rank.phase("train")


def next_batch(batches: queue.Queue) -> object:
    """The next batch of a loader."""
    return batches.get()


def say_started(rank: Rank) -> None:
    """A line for every start of this rank in this attempt: there must be one."""
    folder = rank.run_dir / "attempts" / f"{rank.attempt:03d}"
    with open(folder / f"started-{rank.rank}", "a") as file:
        file.write(f"{os.getpid()}\n")


def keep_step(rank: Rank, state: State) -> State:
    """A step: everybody's part is in everybody's state, however many processes compute them."""
    step = state.step + 1
    own = (digest(state.all, state.own[one], str(one), str(step)) for one in rank.virtual_ranks)
    parts = ",".join(barrier(rank, step, ",".join(own))).split(",")
    return State(step, digest(state.all, *parts), parts)


def barrier(rank: Rank, step: int, mine: str = "") -> list[str]:
    """What an all-gather does: everybody's part, and nobody is more than a step ahead."""
    folder = rank.run_dir / "attempts" / f"{rank.attempt:03d}"
    (folder / f".at-{rank.rank}-{step}").write_text(mine)
    (folder / f".at-{rank.rank}-{step}").rename(folder / f"at-{rank.rank}-{step}")
    parts = []
    for peer in range(rank.size):
        while not (folder / f"at-{peer}-{step}").exists():
            time.sleep(0.002)
        parts.append((folder / f"at-{peer}-{step}").read_text())
    return parts


def digest(*parts: str) -> str:
    """Of strings, in order."""
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def load(rank: Rank) -> State:
    """The state in the checkpoint."""
    manifest = (rank.resume_from / "MANIFEST.json").read_bytes()
    step, both, own, *_ = (rank.resume_from / "model.ckpt").read_text().split()
    seen = hashlib.sha256(manifest).hexdigest()
    rank.resumed(step=int(step), digest=seen, learning_rate=0.1, next_samples=[int(step) + 1])
    return State(int(step), both, own.split(","))


def save(rank: Rank, state: State, stay: float) -> None:
    """A checkpoint in the documented form: aside, fsync, rename."""
    step = state.step
    final = rank.checkpoint_dir / f"step-{step:08d}"
    if final.exists():
        return
    aside = rank.checkpoint_dir / f".step-{step:08d}.attempt-{rank.attempt:03d}.tmp"
    aside.mkdir()
    content = state.content(int(os.environ.get("CHECKPOINT_BYTES", "1000")))
    write(aside / "model.ckpt", content)
    time.sleep(stay)  # a kill may land here
    files = {"model.ckpt": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    manifest = {"format": 1, "step": step, "world_size": rank.world_size, "files": files}
    write(aside / "MANIFEST.json", json.dumps(manifest).encode())
    aside.rename(final)
    rank.checkpoint(final, step)


def take_snapshot(rank: Rank, slots: Slots, state: State, options: dict[str, str]) -> None:
    """This rank's part of a snapshot: its seal goes, its file is written, its seal comes."""
    step, size = state.step, int(os.environ.get("SNAPSHOT_BYTES", "1000"))
    lack = slots.lack(size)
    slot = slots.next()
    if lack:
        print(f"no snapshot: {lack}", flush=True)
        return
    rank.phase("snapshot")
    slots.open(slot)
    name = "model.ckpt" if rank.rank == 0 else f"rank-{rank.rank}.ckpt"
    content = state.content(size)
    (slot / name).write_bytes(content[: size // 2])
    if is_due(rank, options, "die-in-snapshot", step):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(options.get("snapshot_pause", "0")))
    (slot / name).write_bytes(content)
    slots.seal(slot, step, {name: None})
    slots.seal(slot, step, {name: hashlib.sha256(content).hexdigest()})
    rank.phase("train")


def write(path: Path, content: bytes) -> None:
    """Write and fsync."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def told(rank: Rank, options: dict[str, str], how: str, step: int) -> bool:
    """Whether this rank is to fail so by now."""
    ordered, _, at = options.get("fail", "@-1").partition("@")
    mine = rank.rank == int(options.get("rank", "1"))
    now = rank.attempt == 1 or options.get("always") == "true"
    return ordered == how and mine and now and step >= int(at)


def tell_digest(rank: Rank, options: dict[str, str], step: int) -> None:
    """A digest of the parameters that there would be."""
    every = int(options.get("digests", "0"))
    if every and step % every == 0:
        rank.digest(step, step + told(rank, options, "diverge", step))


def be_slow(rank: Rank, options: dict[str, str], step: int) -> float:
    """Need longer than others, if told so; returns the seconds waited for data."""
    from_step, to_step = int(options.get("slow_from", "1")), int(options.get("slow_to", "1000000"))
    if rank.rank != int(options.get("rank", "1")) or not from_step <= step <= to_step:
        return 0.0
    until = time.thread_time() + float(options.get("slow", "0"))
    while time.thread_time() < until:
        pass
    waited = float(options.get("wait", "0"))
    time.sleep(waited)
    return waited


def fail_if_told(rank: Rank, options: dict[str, str], step: int) -> None:
    """The fault that the test ordered."""
    how = options.get("fail", "").partition("@")[0]
    if how in ("nan", "diverge", "die-in-snapshot") or not is_due(rank, options, how, step):
        return
    if how == "raise":
        raise ValueError(f"told to fail at step {step}")
    if how == "leave":
        os._exit(0)
    if how == "hang":
        time.sleep(3600)
    if how == "data-hang":
        next_batch(queue.Queue())
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "all-hang":
        barrier(rank, 10**9 + rank.rank)  # nobody waits for the same
    sys.exit(int(how.removeprefix("exit-")))


def is_due(rank: Rank, options: dict[str, str], how: str, step: int) -> bool:
    """Whether this rank is to fail like that, now."""
    told, _, at = options.get("fail", "@-1").partition("@")
    mine = how == "all-hang" or rank.rank == int(options.get("rank", "1"))
    if (told, int(at)) != (how, step) or not mine:
        return False
    return rank.attempt == 1 or options.get("always") == "true"


if __name__ == "__main__":
    main()
