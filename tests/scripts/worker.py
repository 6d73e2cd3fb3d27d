"""A rank for tests: counts steps, keeps real checkpoints, and fails as it is told.

    worker.py --steps=N [--pause=S] [--fail=HOW@STEP] [--rank=R] [--always=true] [--stay=PHASE:S]

HOW: raise, exit-CODE, leave (exit 0 without done), hang (asleep in Python), data-hang (waits for a
batch that never comes), stop (by SIGSTOP), all-hang (every rank, in the barrier). It fails on rank
R (default 1), in the first attempt only unless `always`; step 0 is before the first step. Rank 0
may stay S seconds in a phase, after step 2 or, to compile, before its first.
"""

import hashlib
import json
import os
import queue
import signal
import sys
import time
from pathlib import Path

from orchestrator.rank import Rank


def main() -> None:
    """Train nothing, properly."""
    options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    rank = Rank.from_env()
    say_started(rank)
    rank.phase("load")
    start = load(rank) if rank.resume_from else 0
    fail_if_told(rank, options, 0)
    stay(rank, options, {"compile"})
    rank.phase("train")
    steps = int(options["steps"])
    for step in range(start + 1, steps + 1):
        time.sleep(float(options.get("pause", "0.02")))
        barrier(rank, step)
        rank.step(step, loss=1.0 / step, images=2, total=steps)
        if step == 2:
            stay(rank, options, {"checkpoint", "evaluate"})
        if rank.should_stop(step) and step < steps:
            if rank.rank == 0:
                save(rank, step)
            sys.exit(75)
        every = rank.checkpoint_every
        if every and step % every == 0 and rank.rank == 0:
            save(rank, step)
        fail_if_told(rank, options, step)
    print(f"rank {rank.rank} counted from {start} to {steps}", flush=True)
    if rank.rank == 0:
        rank.report("count", f"counted to {steps}")
    rank.done()


def stay(rank: Rank, options: dict[str, str], phases: set[str]) -> None:
    """Rank 0 is long in a phase; its peers wait in the next barrier."""
    phase, _, seconds = options.get("stay", "").partition(":")
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


def barrier(rank: Rank, step: int) -> None:
    """What an all-reduce does: nobody is more than a step ahead of anybody."""
    folder = rank.run_dir / "attempts" / f"{rank.attempt:03d}"
    (folder / f"at-{rank.rank}-{step}").touch()
    for peer in range(rank.size):
        while not (folder / f"at-{peer}-{step}").exists():
            time.sleep(0.002)


def load(rank: Rank) -> int:
    """The step of the checkpoint; leaves if it is not what was promised."""
    manifest = (rank.resume_from / "MANIFEST.json").read_bytes()
    step = int((rank.resume_from / "model.ckpt").read_text().split()[0])
    digest = hashlib.sha256(manifest).hexdigest()
    rank.resumed(step=step, digest=digest, learning_rate=0.1, next_samples=[step + 1])
    return step


def save(rank: Rank, step: int) -> None:
    """A checkpoint in the documented form: aside, fsync, rename."""
    final = rank.checkpoint_dir / f"step-{step:08d}"
    if final.exists():
        return
    aside = rank.checkpoint_dir / f".step-{step:08d}.attempt-{rank.attempt:03d}.tmp"
    aside.mkdir()
    size = int(os.environ.get("CHECKPOINT_BYTES", "1000"))
    content = f"{step} ".ljust(size, "x").encode()
    write(aside / "model.ckpt", content)
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
    everybody = how == "all-hang"
    if int(at) != step or (not everybody and rank.rank != int(options.get("rank", "1"))):
        return
    if rank.attempt > 1 and options.get("always") != "true":
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


if __name__ == "__main__":
    main()
