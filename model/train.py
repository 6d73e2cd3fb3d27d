"""Train YOLOv3-Res2Net50: `python -m model.train --data_dir=... [--name=value ...]`.

Runs alone or as one rank of a gang. One straight line: init, join, load, compile, train. A start
is a resume: with a checkpoint to go on from exactly that one is loaded, without one the network
starts from its seed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from model import backend as backends
from model.agreement import Agreement
from model.arguments import as_run, parse
from model.config import Config, ConfigError
from model.config_report import show_help
from model.data_error import DataError
from model.journal import LOGGER, Metrics, Progress, start_log
from model.processors import data_workers
from model.profiling import profiler
from model.run import (
    Run,
    build,
    cache_root,
    check_paths,
    load_dataset,
    metrics_file,
    start,
    state_after,
)
from model.validation import Validation
from orchestrator.rank import EXIT_RETRY, Rank, exit_code_of

if TYPE_CHECKING:
    from model.data import Batch
    from model.virtual_data import Batches

    _Batch = TypeVar("_Batch", Batch, Batches)


def train(config: Config, rank: Rank) -> Path | None:
    """Train to the last step and return the directory of the final checkpoint.

    Raises ConfigError (64), DataError (65, 66), CheckpointUnusable, FloatingPointError for
    gradients that stay not finite, OSError of a full or failing storage.
    """
    start_log()
    rank.phase("init")
    backend = backends.choose(config, rank)
    backends.check_world(config, rank)
    check_paths(config, rank)
    # Before the ranks meet: what is wrong with the data is told at once, not after the join.
    dataset = load_dataset(config, rank)
    backends.prepare(backend, int(os.environ.get("DEVICE_ID") or config.device_id))
    if rank.size > 1:
        rank.phase("join")
        backends.join(rank)
    rank.phase("load")
    if rank.rank == 0:
        for line in as_run(config, rank).lines():
            LOGGER.info(line)
    run = build(config, rank, backend, dataset)
    done, final = start(run)
    validation = Validation.of(run)
    ended = validation.begin(done)
    training = not ended and done < run.total_steps
    if training:
        rank.phase("compile")
        compile_graphs(run)
    ended = ended or validation.make_up(done, final)
    if training and not ended:
        rank.phase("train")
        final = advance(run, done, validation)
    validation.finish(final, run.outputs)
    draw(run)
    LOGGER.info("==========end training===============")
    return final


def compile_graphs(run: Run) -> None:
    """Compile the graphs of every input size, or load them, before the first step."""
    from model.compile_cache import CompileCache, GraphKey, canonical

    shapes = canonical([input_shapes(run, side) for side in run.data.sides])

    def compile_all() -> None:
        run.network.compile_for(shapes)

    root = cache_root(run.config, run.rank)
    since = time.monotonic()
    if root is None:
        compile_all()
        outcome = "compiled"
    else:
        key = GraphKey(
            run.config.fingerprint(), tuple(shapes), run.rank.size, run.backend,
            virtual=len(run.rank.virtual_ranks),
        )  # fmt: skip
        outcome = CompileCache(root, key.digest(), run.rank.rank).compile(compile_all)
    LOGGER.info(
        "graphs of %d input sizes %s in %.1f s", len(shapes), outcome, time.monotonic() - since
    )


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
    from model.snapshots import Snapshots

    config, rank, total = run.config, run.rank, run.total_steps
    images = config.per_batch_size * rank.world_size
    own_images = config.per_batch_size * len(rank.virtual_ranks)
    progress = Progress(
        config.log_interval, run.data.steps_per_epoch, images, sums=rank.rank == 0
    )  # fmt: skip
    metrics = Metrics(metrics_file(run), rank.attempt)
    snapshots = Snapshots(run.network, rank)
    latest = None
    workers = data_workers(config.data_workers)
    LOGGER.info("batches are prepared by %d threads", workers)
    source = run.data.iterate(done, total, workers)
    profile = profiler(run.outputs / "profile", run.backend, wanted=config.need_profiler)
    agreement = Agreement(run.network.optimizer.parameters, rank, done)
    with contextlib.closing(source) as batches, profile as profiled:
        for batch, waited in timed(batches):
            step = batch.global_step + 1
            snapshots.before(step)
            progress.started(step, batch.side)
            rate = run.schedule.learning_rate(step)
            since = time.monotonic()
            outcome = run.network.train(batch.inputs, rate)
            seconds = time.monotonic() - since
            # What was skipped is no loss of the run: `overflows` decides how much is too much.
            rank.step(
                step, loss=None if outcome.skipped else outcome.loss,
                images=own_images, total=total, data_wait=waited,
            )  # fmt: skip
            agreement.after(step)
            progress.finished(step, outcome.loss, rate, waited)
            metrics.write(
                step=step, epoch=run.data.epoch_of(step - 1), loss=outcome.loss,
                parts=outcome.parts, gradient_norm=outcome.gradient_norm, skipped=outcome.skipped,
                learning_rate=rate, side=batch.side, step_seconds=round(seconds, 4),
                data_wait_seconds=round(waited, 4),
                images_per_second=round(images / (seconds + waited), 2),
                images_replaced=len(batch.replaced),
            )  # fmt: skip
            profiled()
            run.overflows.note(step, skipped=outcome.skipped)
            stop = rank.should_stop(step) and step < total
            if stop or step % run.checkpoint_every == 0 or step == total or validation.due(step):
                latest = save(run, step)
                if stop:
                    raise AskedToStop
                if validation.after(step, latest):
                    break
            else:
                # A step that was skipped, by all ranks alike, has left a good state as it was.
                loss = 0.0 if outcome.skipped else outcome.loss
                snapshots.after(step, loss, partial(state_after, run, step))
    snapshots.close()
    metrics.close()
    LOGGER.info("%s; %s", run.overflows.account(), run.data.replacements.account())
    return latest


class AskedToStop(Exception):
    """Muster wants the devices back: all is saved, and the run goes on from there later."""


def timed(batches: Iterator[_Batch]) -> Iterator[tuple[_Batch, float]]:
    """Yield each batch with the seconds that it was waited for."""
    since = time.monotonic()
    for batch in batches:
        yield batch, time.monotonic() - since
        since = time.monotonic()


def save(run: Run, step: int) -> Path:
    """Write the checkpoint of `step`, together with all other ranks."""
    from model.checkpoint import link_original_name, save_own_copy

    rank = run.rank
    rank.phase("checkpoint")
    others = run.network.statistics_of_others()
    directory = run.writer.save(run.network, state_after(run, step), others)
    epoch = run.data.epoch_of(step - 1) + 1
    if rank.rank == 0:
        rank.checkpoint(directory, step)
        link_original_name(directory, run.outputs / "ckpt_0", epoch, step)
        LOGGER.info("checkpoint of step %d: %s", step, directory)
    if not run.config.is_save_on_master:
        for number, statistics in zip(rank.virtual_ranks, [{}, *others], strict=True):
            if number:
                folder, name = run.outputs / f"ckpt_{number}", f"{number}-{epoch}_{step}.ckpt"
                save_own_copy(run.network, directory, folder, name, statistics)
    rank.phase("train")
    return directory


def draw(run: Run) -> None:
    """Draw the course of the training; a picture that fails is not worth a run."""
    from model.plots import PICTURE, plot_training

    metrics = metrics_file(run)
    if metrics is None or not metrics.exists():
        return
    try:
        plot_training(metrics, metrics.with_name(PICTURE), run.rank.job)
    except Exception as error:  # whatever a drawing library may stumble over
        LOGGER.warning("the course of the training was not drawn: %r", error)
    else:
        LOGGER.info("the course of the training: %s", metrics.with_name(PICTURE))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, and end the process if it was a rank of several or failed."""
    show_help(__doc__, arguments)
    rank = Rank.from_env()
    try:
        train(parse(sys.argv[1:] if arguments is None else arguments), rank)
        rank.done()
    except AskedToStop:
        LOGGER.info("asked to stop: everything is saved")
        _leave(EXIT_RETRY)
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
