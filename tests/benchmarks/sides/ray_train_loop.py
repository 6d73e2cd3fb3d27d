"""The peer of `recovery_vs_ray_train`: `ray_train_loop FOLDER STEPS PAUSE WORKERS`.

Ray Train's `TorchTrainer` on the CPU with a `FailureConfig`, its defaults otherwise. The loop has
the shape of `scripts/allreduce.py`: a matrix product of the same size, one all-reduce (gloo) a
step, the same pause. Rank 0 reports a checkpoint every ten steps, from which a restarted group
goes on. Each worker process prints what `scripts/allreduce.py` prints into a file of its own,
FOLDER/worker_RANK-PID.log.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

WIDTH = 256
EVERY = 10


def train(about: dict[str, Any]) -> None:
    """What every worker does."""
    torch: Any = importlib.import_module("torch")
    train: Any = importlib.import_module("ray.train")
    distributed = torch.distributed
    rank = train.get_context().get_world_rank()
    folder = Path(about["folder"])
    with open(folder / f"worker_{rank}-{os.getpid()}.log", "w", buffering=1) as log:
        print(f"PID {os.getpid()}", file=log)
        weight, first = torch.eye(WIDTH), 1
        given = train.get_checkpoint()
        if given is not None:
            with given.as_directory() as directory:
                state = torch.load(Path(directory) / "state.pt")
            weight, first = state["weight"], state["step"] + 1
        samples = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(rank))
        for step in range(first, about["steps"] + 1):
            outputs = samples @ weight
            gradient = samples.T @ outputs
            distributed.all_reduce(gradient)
            weight -= 1e-4 * gradient / about["workers"]
            print(f"STEP {step} {time.monotonic():.6f}", file=log)
            if step % EVERY == 0:
                report(train, torch, folder, rank, {"weight": weight, "step": step})
            time.sleep(about["pause"])


def report(train: Any, torch: Any, folder: Path, rank: int, state: dict[str, Any]) -> None:
    """Report a step; of rank 0 with a checkpoint."""
    saved = None
    if rank == 0:
        place = folder / f"saved-{os.getpid()}-{state['step']}"
        place.mkdir()
        torch.save(state, place / "state.pt")
        saved = train.Checkpoint.from_directory(place)
    train.report({"step": state["step"]}, checkpoint=saved)


def main() -> None:
    """Start a Ray of its own and train in it."""
    folder, steps, pause, workers = sys.argv[1:]
    ray: Any = importlib.import_module("ray")
    train_api: Any = importlib.import_module("ray.train")
    trainer: Any = importlib.import_module("ray.train.torch").TorchTrainer
    ray.init(num_cpus=int(workers) + 1, include_dashboard=False)
    trainer(
        train,
        train_loop_config={"folder": folder, "steps": int(steps), "pause": float(pause),
                           "workers": int(workers)},
        scaling_config=train_api.ScalingConfig(num_workers=int(workers)),
        run_config=train_api.RunConfig(
            name="loop",
            storage_path=str(Path(folder) / "storage"),
            failure_config=train_api.FailureConfig(max_failures=3),
        ),
    ).fit()  # fmt: skip
    ray.shutdown()


if __name__ == "__main__":
    main()
