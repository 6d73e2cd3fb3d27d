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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from model import backend as backends
from model.config import Config, ConfigError, parse
from model.data_error import DataError
from model.journal import Metrics, Progress, start_log
from model.schedule import Schedule
from orchestrator.rank import Rank, exit_code_of

if TYPE_CHECKING:
    from model.checkpoint import CheckpointWriter, TrainingState
    from model.coco import CocoDataset
    from model.data import Batch, TrainingData
    from model.step import TrainStep


@dataclass(frozen=True)
class Run:
    """Everything that training needs, made once."""

    config: Config
    rank: Rank
    backend: backends.Backend
    data: TrainingData
    schedule: Schedule
    network: TrainStep
    writer: CheckpointWriter
    outputs: Path
    total_steps: int
    checkpoint_every: int


def train(config: Config, rank: Rank) -> Path:
    """Train to the last step and return the directory of the final checkpoint.

    Raises ConfigError (64), DataError (65, 66), CheckpointUnusable, FloatingPointError for a loss
    that is not finite, OSError of a full or failing storage.
    """
    log = start_log()
    rank.phase("init")
    backend = backends.choose(config, rank)
    backends.check_world(config, rank)
    backends.prepare(backend, int(os.environ.get("DEVICE_ID") or config.device_id))
    if rank.size > 1:
        rank.phase("join")
        backends.join(rank)
    rank.phase("load")
    if rank.rank == 0:
        for line in config.lines():
            log.info(line)
    run = build(config, rank, backend)
    done = start(run)
    if done < run.total_steps:
        rank.phase("compile")
        compile_graphs(run)
        rank.phase("train")
        advance(run, done)
    final = run.writer.directory / f"step-{run.total_steps:08d}"
    if config.evaluate_at_end and rank.rank == 0:
        evaluate_final(run, final)
    log.info("==========end training===============")
    return final


def build(config: Config, rank: Rank, backend: backends.Backend) -> Run:
    """Read the data set and make data pipeline, network and checkpoint writer."""
    from model.checkpoint import CheckpointWriter
    from model.data import ImageCache, TrainingData
    from model.loss import DetectionLoss
    from model.step import build_step
    from model.training_network import TrainingNetwork
    from model.transforms import AugmentationSettings
    from model.yolo import YoloV3

    dataset = load_dataset(config, rank)
    architecture = config.architecture(config.classes(len(dataset.categories)))
    data = TrainingData(
        dataset,
        batch_size=config.per_batch_size,
        side_or_sides=config.training_sides,
        architecture=architecture,
        seed=config.seed,
        rank=rank.rank,
        world_size=rank.size,
        resize_rate=config.resize_rate,
        label_smooth=config.label_smooth_factor if config.label_smooth else 0.0,
        augmentation=AugmentationSettings(
            max_boxes=config.max_box,
            jitter=config.jitter,
            hue=config.hue,
            saturation=config.saturation,
            value=config.value,
        ),
        cache=ImageCache(),
    )
    schedule = Schedule.of(config, data.steps_per_epoch)
    network = TrainingNetwork(YoloV3(architecture, config.seed), DetectionLoss(architecture))
    outputs = output_folder(config, rank)
    return Run(
        config=config,
        rank=rank,
        backend=backend,
        data=data,
        schedule=schedule,
        network=build_step(network, config, rank.size, backend),
        writer=CheckpointWriter(
            directory=rank.checkpoint_dir or outputs / "checkpoints",
            rank=rank.rank,
            world_size=rank.size,
            attempt=rank.attempt,
        ),
        outputs=outputs,
        total_steps=min(schedule.total_steps, config.max_steps or schedule.total_steps),
        checkpoint_every=checkpoint_interval(config, rank, data.steps_per_epoch),
    )


def output_folder(config: Config, rank: Rank) -> Path:
    """`<ckpt_path>/<time>/`, in muster's run directory if there is one, else where one stands."""
    base = rank.run_dir or Path.cwd()
    return base / config.ckpt_path / time.strftime("%Y-%m-%d_time_%H_%M_%S")


def checkpoint_interval(config: Config, rank: Rank, steps_per_epoch: int) -> int:
    """Steps between checkpoints: muster's number, else --ckpt_interval, else an epoch."""
    if rank.checkpoint_every:
        return rank.checkpoint_every
    return config.ckpt_interval if config.ckpt_interval > 0 else steps_per_epoch


def load_dataset(config: Config, rank: Rank) -> CocoDataset:
    """Read the training data, with the checkpoint's category table where there is one."""
    from model.coco import CategoryTable, CocoDataset

    source = checkpoint_to_resume(config, rank)
    table = None
    if source is not None:
        table = CategoryTable.from_json(saved_state(source, rank).categories)
    return CocoDataset.load(config.data_dir, "train2017", categories=table)


def checkpoint_to_resume(config: Config, rank: Rank) -> Path | None:
    """The checkpoint to go on from: muster's choice, else the user's."""
    if rank.active or not config.resume_from:
        return rank.resume_from
    return Path(config.resume_from)


def saved_state(source: Path, rank: Rank) -> TrainingState:
    """Read the state of a checkpoint; an unreadable one is reported unusable."""
    from model.restore import read_state

    try:
        state = read_state(source)
    except (OSError, ValueError, KeyError, TypeError) as error:
        rank.unusable(source, f"state.json: {type(error).__name__}: {error}")
    if state.world_size != rank.size:
        raise ConfigError(
            [f"{source} was written by {state.world_size} ranks, this run has {rank.size}"]
        )
    return state


def start(run: Run) -> int:
    """Give the network its first state; returns the global steps that are already done."""
    run.writer.clear_leftovers()
    source = checkpoint_to_resume(run.config, run.rank)
    if source is None:
        start_fresh(run)
        return 0
    return resume(run, source)


def start_fresh(run: Run) -> None:
    """Load pretrained weights, if asked for, over those drawn from the seed."""
    from model.restore import load_backbone, load_weights

    config, network = run.config, run.network.network
    log = start_log()
    if config.pretrained_backbone:
        load_backbone(Path(config.pretrained_backbone), network)
    if config.resume_yolov3:
        load_weights(Path(config.resume_yolov3), network)
        log.info("loaded weights of %s: fine-tuning starts at step 0", config.resume_yolov3)
    elif not config.pretrained_backbone:
        log.info("no pretrained backbone: the network starts from seed %d", config.seed)
        if config.freeze_backbone or config.backbone_bn == "frozen":
            log.warning(
                "without a pretrained backbone its stem stays random for ever; set "
                "--pretrained_backbone, or --freeze_backbone=0 --backbone_bn=batch"
            )


def resume(run: Run, source: Path) -> int:
    """Load exactly `source`, report the proof of it, and return its step."""
    from model.restore import load

    log = start_log()
    loaded = load(source, run.network, run.rank)
    step = loaded.state.step
    for difference in loaded.state.differences(state_after(run, step)):
        log.warning("resumed, but not the same run: %s", difference)
    upcoming = run.data.sample_ids(step) if step < run.total_steps else ()
    rate = run.schedule.learning_rate(step + 1)
    log.info(
        "resume proof: step %d, digest %s, learning rate %r, next samples %s",
        step, loaded.digest, rate, list(upcoming),
    )  # fmt: skip
    run.rank.resumed(
        step=step, digest=loaded.digest, learning_rate=rate, next_samples=upcoming
    )
    return step


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
    start_log().info("%d graphs %s in %.1f s", len(shapes), outcome, time.monotonic() - since)


def input_shapes(run: Run, side: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the network's inputs for images of `side` pixels, in their order."""
    from model.architecture import ANCHORS_PER_HEAD, HEADS, STRIDES

    batch, architecture = run.config.per_batch_size, run.data.architecture
    grids = [side // STRIDES[head] for head in HEADS]
    truths = [(batch, g, g, ANCHORS_PER_HEAD, architecture.attributes) for g in grids]
    return ((batch, 3, side, side), *truths, *([(batch, run.config.max_box, 4)] * len(HEADS)))


def cache_root(config: Config, rank: Rank) -> Path | None:
    """Where compiled graphs are kept; None for nowhere."""
    if config.compile_cache:
        return None if config.compile_cache == "off" else Path(config.compile_cache)
    return rank.run_dir / "compile_cache" if rank.run_dir else None


def advance(run: Run, done: int) -> None:
    """Train from global step `done` + 1 to the last, with checkpoints on the way."""
    config, rank, total = run.config, run.rank, run.total_steps
    progress = Progress(
        config.log_interval, run.data.steps_per_epoch, config.per_batch_size * rank.size,
        sums=rank.rank == 0,
    )  # fmt: skip
    metrics = Metrics(metrics_file(run), rank.attempt)
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
            )  # fmt: skip
            if step % run.checkpoint_every == 0 or step == total:
                save(run, step)
    metrics.close()


def train_one(run: Run, batch: Batch, step: int) -> float:
    """Train one global step and return this rank's loss; FloatingPointError if not finite."""
    from mindspore import Tensor

    run.network.set_learning_rate(run.schedule.learning_rate(step))
    loss = float(run.network(*map(Tensor.from_numpy, batch.inputs)).asnumpy())
    if not math.isfinite(loss):
        raise FloatingPointError(f"loss {loss} at step {step} on rank {run.rank.rank}")
    return loss


def save(run: Run, step: int) -> None:
    """Write the checkpoint of `step`, together with all other ranks."""
    from model.checkpoint import link_original_name

    rank = run.rank
    rank.phase("checkpoint")
    directory = run.writer.save(run.network, state_after(run, step))
    if rank.rank == 0:
        rank.checkpoint(directory, step)
        epoch = run.data.epoch_of(step - 1) + 1
        link_original_name(directory, run.outputs / f"ckpt_{rank.rank}", epoch, step)
        start_log().info("checkpoint of step %d: %s", step, directory)
    rank.phase("train")


def state_after(run: Run, step: int) -> TrainingState:
    """What is to be known of the run after `step`, beside the parameters."""
    import mindspore as ms

    from model.checkpoint import TrainingState

    epoch, batch = divmod(step, run.data.steps_per_epoch)
    return TrainingState(
        step=step,
        epoch=epoch,
        batch=batch,
        next_step=step,
        seed=run.config.seed,
        learning_rate=run.schedule.learning_rate(max(step, 1)),
        loss_scale={"kind": "static", "value": run.config.loss_scale},
        categories=run.data.dataset.categories.to_json(),
        configuration=run.config.fingerprint(),
        world_size=run.rank.size,
        threads=backends.threads(),
        backend=run.backend,
        mindspore=ms.__version__,
    )


def metrics_file(run: Run) -> Path | None:
    """Rank 0's metrics: one file for all attempts of a run."""
    if run.rank.rank:
        return None
    return (run.rank.run_dir or run.outputs) / "metrics.jsonl"


def evaluate_final(run: Run, checkpoint: Path) -> None:
    """Evaluate the final checkpoint, as it lies on disk, on the held-out images."""
    from model.evaluate import evaluate, write_results

    run.rank.phase("evaluate")
    result = evaluate(run.config, checkpoint)
    write_results(result, run.outputs)
    table = result.figures.table()
    start_log().info("\n%s", table)
    run.rank.report("evaluation", table)


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
