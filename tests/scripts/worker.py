"""A rank for tests: counts steps, keeps real checkpoints, and fails as it is told.

    worker.py --steps=N [--pause=S] [--fail=HOW@STEP] [--rank=R] [--always=true] [--stay=S]
        [--deaf=true]

Its state is a function of all steps of all ranks: a digest that each step folds every rank's own
digest into. With `--stay` it passes through every phase of the contract, S seconds each: a
snapshot after steps 22, 32, …, an evaluation after 26, 36, ….

HOW: raise, exit-CODE, leave (exit 0 without done), hang. It fails on rank R (default 1),
in the first attempt only unless `always`; step 0 is before the first step.
"""

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.rank import Rank


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
    state = load(rank) if rank.resume_from else State(0, "", [""] * rank.size)
    start = state.step
    fail_if_told(rank, options, 0)
    be_in(rank, "compile", stay)
    rank.phase("train")
    steps = int(options["steps"])
    for step in range(start + 1, steps + 1):
        time.sleep(float(options.get("pause", "0.02")))
        state = keep_step(rank, state)
        rank.step(step, loss=1.0 / step, images=2, total=steps)
        if options.get("deaf") != "true" and rank.should_stop(step) and step < steps:
            if rank.rank == 0:
                save(rank, state, stay)
            sys.exit(75)
        every = rank.checkpoint_every
        if every and step % every == 0:
            if stay:
                rank.phase("checkpoint")
            if rank.rank == 0:
                save(rank, state, stay)
            elif stay:
                time.sleep(stay)
        if step > 20:
            be_in(rank, {2: "snapshot", 6: "evaluate"}.get(step % 10), stay)
        if stay:
            rank.phase("train")
        fail_if_told(rank, options, step)
    print(f"rank {rank.rank} counted from {start} to {steps}", flush=True)
    if rank.rank == 0:
        rank.report("count", f"counted to {steps}")
    rank.done()


@dataclass(frozen=True)
class State:
    """What training has come to: `own` has a digest of each rank, `all` one of all of them."""

    step: int
    all: str
    own: list[str]


def be_in(rank: Rank, phase: str | None, stay: float) -> None:
    """Spend time in a phase, where the job is to pass through all of them."""
    if stay and phase is not None:
        rank.phase(phase)
        time.sleep(stay)


def say_started(rank: Rank) -> None:
    """A line for every start of this rank in this attempt: there must be one."""
    folder = rank.run_dir / "attempts" / f"{rank.attempt:03d}"
    with open(folder / f"started-{rank.rank}", "a") as file:
        file.write(f"{os.getpid()}\n")


def keep_step(rank: Rank, state: State) -> State:
    """What an all-reduce does: everybody's part is in everybody's state, and nobody is ahead."""
    step = state.step + 1
    folder = rank.run_dir / "attempts" / f"{rank.attempt:03d}"
    own = digest(state.all, state.own[rank.rank], str(rank.rank), str(step))
    (folder / f".at-{rank.rank}-{step}").write_text(own)
    (folder / f".at-{rank.rank}-{step}").rename(folder / f"at-{rank.rank}-{step}")
    parts = []
    for peer in range(rank.size):
        while not (folder / f"at-{peer}-{step}").exists():
            time.sleep(0.002)
        parts.append((folder / f"at-{peer}-{step}").read_text())
    return State(step, digest(state.all, *parts), parts)


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
    size = int(os.environ.get("CHECKPOINT_BYTES", "1000"))
    content = f"{step} {state.all} {','.join(state.own)} ".ljust(size, "x").encode()
    write(aside / "model.ckpt", content)
    time.sleep(stay)  # a kill may land here
    files = {"model.ckpt": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    manifest = {"format": 1, "step": step, "world_size": rank.size, "files": files}
    write(aside / "MANIFEST.json", json.dumps(manifest).encode())
    aside.rename(final)
    rank.checkpoint(final, step)


def write(path: Path, content: bytes) -> None:
    """Write and fsync."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def fail_if_told(rank: Rank, options: dict[str, str], step: int) -> None:
    """The fault that the test ordered."""
    how, _, at = options.get("fail", "@-1").partition("@")
    if int(at) != step or rank.rank != int(options.get("rank", "1")):
        return
    if rank.attempt > 1 and options.get("always") != "true":
        return
    if how == "raise":
        raise ValueError(f"told to fail at step {step}")
    if how == "leave":
        os._exit(0)
    if how == "hang":
        time.sleep(3600)
    sys.exit(int(how.removeprefix("exit-")))


if __name__ == "__main__":
    main()
