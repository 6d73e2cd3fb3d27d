"""Train YOLOv3-Res2Net50: `python -m model.train --data_dir=... [--name=value ...]`.

Runs alone or as one rank of a gang. One straight line: init, join, load, compile, train. A start
is a resume: with a checkpoint to go on from exactly that one is loaded, without one the network
starts from its seed.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from model import backend as backends
from model.arguments import parse
from model.config import Config, ConfigError
from model.data_error import DataError
from model.journal import LOGGER, Metrics, Progress, start_log
from model.run import Run, build, cache_root, load_dataset, metrics_file, start, state_after
from model.validation import Validation
from orchestrator.rank import Rank, exit_code_of

if TYPE_CHECKING:
    from model.data import Batch


def train(config: Config, rank: Rank) -> Path | None:
    """Train to the last step and return the directory of the final checkpoint.

    Raises ConfigError (64), DataError (65, 66), CheckpointUnusable, FloatingPointError for a loss
    that is not finite, OSError of a full or failing storage.
    """
    start_log()
    rank.phase("init")
    backend = backends.choose(config, rank)
    backends.check_world(config, rank)
    # Before the ranks meet: what is wrong with the data is told at once, not after the join.
    dataset = load_dataset(config, rank)
    backends.prepare(backend, int(os.environ.get("DEVICE_ID") or config.device_id))
    if rank.size > 1:
        rank.phase("join")
        backends.join(rank)
    rank.phase("load")
    if rank.rank == 0:
        for line in config.lines():
            LOGGER.info(line)
    run = build(config, rank, backend, dataset)
    done, final = start(run)
    validation = Validation.of(run)
    ended = validation.begin(done, final)
    if done < run.total_steps and not ended:
        rank.phase("compile")
        compile_graphs(run)
        rank.phase("train")
        final = advance(run, done, validation)
    validation.finish(final, run.outputs)
    LOGGER.info("==========end training===============")
    return final


def compile_graphs(run: Run) -> None:
    """Compile the graph of every input size, or load it, before the first step."""
    from mindspore import Tensor

    from model.compile_cache import CompileCache, GraphKey, canonical

    shapes = canonical([input_shapes(run, side) for side in run.data.sides])

    def compile_all() -> None:
        for inputs in shapes:
            run.network.compile(*(Tensor(np.zeros(shape, np.float32)) for shape in inputs))

    root = cache_root(run.config, run.rank)
    since = time.monotonic()
    if root is None:
        compile_all()
        outcome = "compiled"
    else:
        key = GraphKey(run.config.fingerprint(), tuple(shapes), run.rank.size, run.backend)
        outcome = CompileCache(root, key.digest(), run.rank.rank).compile(compile_all)
    LOGGER.info("%d graphs %s in %.1f s", len(shapes), outcome, time.monotonic() - since)


def input_shapes(run: Run, side: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the network's inputs for images of `side` pixels, in their order."""
    from model.architecture import ANCHORS_PER_HEAD, HEADS, STRIDES

    batch, architecture = run.config.per_batch_size, run.data.architecture
    grids = [side // STRIDES[head] for head in HEADS]
    truths = [(batch, g, g, ANCHORS_PER_HEAD, architecture.attributes) for g in grids]
    return ((batch, 3, side, side), *truths, *([(batch, run.config.max_box, 4)] * len(HEADS)))


def advance(run: Run, done: int, validation: Validation) -> Path | None:
    """Train from global step `done` + 1 to the last; returns the last of the checkpoints.

    The last is `total_steps`, or an earlier one after which `validation` ends the training.
    """
    config, rank, total = run.config, run.rank, run.total_steps
    progress = Progress(
        config.log_interval, run.data.steps_per_epoch, config.per_batch_size * rank.size,
        sums=rank.rank == 0,
    )  # fmt: skip
    metrics = Metrics(metrics_file(run), rank.attempt)
    latest = None
    with contextlib.closing(run.data.iterate(done, total, config.data_workers)) as batches:
        for batch in batches:
            step = batch.global_step + 1
            progress.started(step, batch.side)
            since = time.monotonic()
            loss = train_one(run, batch, step)
            seconds = time.monotonic() - since
            rank.step(step, loss=loss, images=config.per_batch_size, total=total)
            rate = run.schedule.learning_rate(step)
            progress.finished(step, loss, rate)
            metrics.write(
                step=step, epoch=run.data.epoch_of(step - 1), loss=loss, learning_rate=rate,
                side=batch.side, step_seconds=round(seconds, 4),
                images_replaced=len(batch.replaced),
            )  # fmt: skip
            if step % run.checkpoint_every == 0 or step == total or validation.due(step):
                latest = save(run, step)
                if validation.after(step, latest):
                    break
    metrics.close()
    return latest


def train_one(run: Run, batch: Batch, step: int) -> float:
    """Train one global step and return this rank's loss; FloatingPointError if not finite."""
    from mindspore import Tensor

    run.network.set_learning_rate(run.schedule.learning_rate(step))
    loss = float(run.network(*map(Tensor.from_numpy, batch.inputs)).asnumpy())
    if not math.isfinite(loss):
        raise FloatingPointError(f"loss {loss} at step {step} on rank {run.rank.rank}")
    return loss


def save(run: Run, step: int) -> Path:
    """Write the checkpoint of `step`, together with all other ranks."""
    from model.checkpoint import link_original_name

    rank = run.rank
    rank.phase("checkpoint")
    directory = run.writer.save(run.network, state_after(run, step))
    if rank.rank == 0:
        rank.checkpoint(directory, step)
        epoch = run.data.epoch_of(step - 1) + 1
        link_original_name(directory, run.outputs / f"ckpt_{rank.rank}", epoch, step)
        LOGGER.info("checkpoint of step %d: %s", step, directory)
    rank.phase("train")
    return directory


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, and end the process if it was a rank of several or failed."""
    rank = Rank.from_env()
    try:
        train(parse(sys.argv[1:] if arguments is None else arguments), rank)
        rank.done()
    except BaseException as error:
        _fail(error, rank)
    if rank.size > 1:
        # Interpreter exit would take the cluster down in order and wait for ranks that still
        # evaluate, or are gone already. Everything is written: there is nothing to wait for.
        _leave(0)


def _fail(error: BaseException, rank: Rank) -> NoReturn:
    if isinstance(error, ConfigError | DataError):
        print(error, file=sys.stderr)
    elif not isinstance(error, SystemExit):
        traceback.print_exc()
    rank.error(type(error), error, error.__traceback__)
    _leave(exit_code_of(error))


def _leave(code: int) -> NoReturn:
    """End the process now: its peers may be gone, and interpreter exit waits for them."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
