"""One training run: what it is made of, where its files go, and how it begins."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model import backend as backends
from model.config import Config, ConfigError
from model.data_error import DataError
from model.journal import LOGGER
from model.overflow import Overflows
from model.profiling import STEPS as PROFILED
from model.schedule import Schedule
from orchestrator.rank import Rank

if TYPE_CHECKING:
    from model.architecture import Architecture
    from model.checkpoint import CheckpointWriter, TrainingState
    from model.coco import CocoDataset
    from model.data import TrainingData
    from model.step import TrainStep
    from model.training_network import TrainingNetwork
    from model.virtual_data import VirtualData
    from model.virtual_step import VirtualStep


@dataclass(frozen=True)
class Run:
    """Everything that training needs, made once."""

    config: Config
    rank: Rank
    backend: backends.Backend
    data: TrainingData | VirtualData
    schedule: Schedule
    network: TrainStep | VirtualStep
    writer: CheckpointWriter
    outputs: Path
    total_steps: int
    checkpoint_every: int
    overflows: Overflows


def build(config: Config, rank: Rank, backend: backends.Backend, dataset: CocoDataset) -> Run:
    """Make data pipeline, network and checkpoint writer for the data set that was read."""
    from model.checkpoint import CheckpointWriter
    from model.loss import DetectionLoss
    from model.training_network import TrainingNetwork
    from model.yolo import YoloV3

    architecture = config.architecture(config.classes(len(dataset.categories)))
    data = build_data(config, rank, dataset, architecture)
    schedule = Schedule.of(config, data.steps_per_epoch)
    network = TrainingNetwork(YoloV3(architecture, config.seed), DetectionLoss(architecture))
    outputs = output_folder(config, rank)
    return Run(
        config=config,
        rank=rank,
        backend=backend,
        data=data,
        schedule=schedule,
        network=build_network(network, config, rank, backend),
        writer=CheckpointWriter(
            directory=checkpoint_folder(config, rank, outputs),
            rank=rank.virtual_ranks.start,
            world_size=rank.world_size,
            attempt=rank.attempt,
        ),
        outputs=outputs,
        total_steps=last_step(config, schedule),
        checkpoint_every=checkpoint_interval(config, rank, data.steps_per_epoch),
        overflows=Overflows(config.overflow_limit),
    )


def build_data(
    config: Config, rank: Rank, dataset: CocoDataset, architecture: Architecture
) -> TrainingData | VirtualData:
    """Make the data of this process: of its rank, or of its virtual ranks one after another."""
    from model.data import ImageCache, TrainingData
    from model.transforms import AugmentationSettings
    from model.virtual_data import VirtualData

    cache = ImageCache()
    shares = [
        TrainingData(
            dataset,
            batch_size=config.per_batch_size,
            side_or_sides=config.training_sides,
            architecture=architecture,
            seed=config.seed,
            rank=number,
            world_size=rank.world_size,
            resize_rate=config.resize_rate,
            label_smooth=config.label_smooth_factor if config.label_smooth else 0.0,
            augmentation=AugmentationSettings(
                max_boxes=config.max_box,
                jitter=config.jitter,
                hue=config.hue,
                saturation=config.saturation,
                value=config.value,
            ),
            cache=cache,
        )
        for number in rank.virtual_ranks
    ]
    return shares[0] if len(shares) == 1 else VirtualData(shares)


def build_network(
    network: TrainingNetwork, config: Config, rank: Rank, backend: backends.Backend
) -> TrainStep | VirtualStep:
    """Make the step: one graph for one rank, a few for virtual ranks."""
    from model.step import build_step, ingredients
    from model.virtual_step import VirtualStep

    virtual = len(rank.virtual_ranks)
    if virtual == 1:
        return build_step(network, config, rank.size, backend)
    LOGGER.info(
        "%d ranks are computed by %d processes: this one is rank %d to %d of the job",
        rank.world_size, rank.size, rank.virtual_ranks[0], rank.virtual_ranks[-1],
    )  # fmt: skip
    return VirtualStep(network, virtual=virtual, **ingredients(network, config, rank.size, backend))


def last_step(config: Config, schedule: Schedule) -> int:
    """The global step that ends the run: the schedule's last, or an earlier one asked for."""
    limits = [schedule.total_steps, config.max_steps, PROFILED if config.need_profiler else None]
    return min(limit for limit in limits if limit)


def output_folder(config: Config, rank: Rank) -> Path:
    """`<ckpt_path>/<time>/`, in muster's run directory if there is one, else where one stands."""
    base = rank.run_dir or Path.cwd()
    return base / config.ckpt_path / time.strftime("%Y-%m-%d_time_%H_%M_%S")


def checkpoint_folder(config: Config, rank: Rank, outputs: Path) -> Path:
    """Where step directories go: muster's choice, else the user's, else below the outputs.

    A run that goes on, goes on where it was: the history of its evaluations is there too.
    """
    if rank.checkpoint_dir is not None:
        return rank.checkpoint_dir
    if config.checkpoint_dir:
        return Path(config.checkpoint_dir)
    if config.resume_from:
        return Path(config.resume_from).absolute().parent
    if rank.world_size > 1:
        # Each rank's outputs are named by its own clock.
        raise ConfigError(["several ranks without muster need --checkpoint_dir, the same for all"])
    return outputs / "checkpoints"


def check_paths(config: Config, rank: Rank) -> None:
    """Refuse paths that muster decides on where it starts the ranks. Raises ConfigError."""
    if not rank.active:
        return
    decided = {
        "resume_from": "`muster resume RUN_DIR` continues a run, resume_yolov3 starts from weights",
        "checkpoint_dir": "checkpoints go into the run directory",
    }
    problems = [
        f"{config.written(name)}: under muster this is not yours to choose: {instead}"
        for name, instead in decided.items()
        if getattr(config, name)
    ]
    if problems:
        raise ConfigError(problems)


def checkpoint_interval(config: Config, rank: Rank, steps_per_epoch: int) -> int:
    """Steps between checkpoints: muster's number, else --ckpt_interval, else an epoch."""
    if rank.checkpoint_every:
        return rank.checkpoint_every
    return config.ckpt_interval if config.ckpt_interval > 0 else steps_per_epoch


def load_dataset(config: Config, rank: Rank) -> CocoDataset:
    """Read the training data, with the checkpoint's category table where there is one.

    An image that has vanished since a run began does not end it: it is replaced in training.
    """
    from model.coco import CategoryTable, CocoDataset
    from model.restore import category_table

    source = checkpoint_to_resume(config, rank)
    if source is not None:
        table = CategoryTable.from_json(saved_state(source, rank).categories)
        return CocoDataset.load(
            config.data_dir, "train2017", categories=table, may_miss_images=True
        )
    if not config.resume_yolov3 or config.reset_head:
        return CocoDataset.load(config.data_dir, "train2017")
    # Classes are matched by id and name: in another order they would be learnt anew.
    rows = category_table(Path(config.resume_yolov3))
    try:
        return CocoDataset.load(
            config.data_dir, "train2017", categories=CategoryTable.from_json(rows) if rows else None
        )
    except DataError as error:
        if rows is None:
            raise
        way_out = f"{config.resume_yolov3} was trained for other classes? Then add --reset_head=1"
        problems = [*error.problems, way_out]
        raise DataError(error.where, problems, error.exit_code, error.total + 1) from error


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
    if state.world_size != rank.world_size:
        raise ConfigError(
            [f"{source} was written by {state.world_size} ranks, this run has {rank.world_size}"]
        )
    return state


def start(run: Run) -> tuple[int, Path | None]:
    """Give the network its first state: (global steps already done, checkpoint they are from)."""
    run.writer.clear_leftovers()
    source = checkpoint_to_resume(run.config, run.rank)
    if source is None:
        start_fresh(run)
        if run.network.average is not None:
            run.network.average.restart()
        run.network.keep_statistics()
        return 0, None
    return resume(run, source), source


def start_fresh(run: Run) -> None:
    """Load pretrained weights, if asked for, over those drawn from the seed."""
    from model.restore import load_backbone, load_weights

    config, network = run.config, run.network.network
    if config.pretrained_backbone:
        load_backbone(Path(config.pretrained_backbone), network)
    if config.resume_yolov3:
        drawn = load_weights(Path(config.resume_yolov3), network, reset_head=config.reset_head)
        for name in drawn:
            LOGGER.info("not loaded but drawn anew: %s", name)
        LOGGER.info("loaded weights of %s: fine-tuning starts at step 0", config.resume_yolov3)
    elif not config.pretrained_backbone:
        LOGGER.info("no pretrained backbone: the network starts from seed %d", config.seed)
        if config.freeze_backbone or config.backbone_bn == "frozen":
            LOGGER.warning(
                "without a pretrained backbone its stem stays random for ever; set "
                "--pretrained_backbone, or --freeze_backbone=0 --backbone_bn=batch"
            )


def resume(run: Run, source: Path) -> int:
    """Load exactly `source`, report the proof of it, and return its step."""
    from model.restore import load

    loaded = load(source, run.network, run.rank)
    run.network.keep_statistics(loaded.others)
    step = loaded.state.step
    run.overflows.restore(loaded.state.loss_scale)
    for difference in loaded.state.differences(state_after(run, step)):
        LOGGER.warning("resumed, but not the same run: %s", difference)
    upcoming = run.data.sample_ids(step) if step < run.total_steps else ()
    rate = run.schedule.learning_rate(step + 1)
    LOGGER.info(
        "resume proof: step %d, digest %s, learning rate %r, next samples %s",
        step, loaded.digest, rate, list(upcoming),
    )  # fmt: skip
    run.rank.resumed(step=step, digest=loaded.digest, learning_rate=rate, next_samples=upcoming)
    return step


def cache_root(config: Config, rank: Rank) -> Path | None:
    """Where compiled graphs are kept; None for nowhere."""
    if config.compile_cache:
        return None if config.compile_cache == "off" else Path(config.compile_cache)
    return rank.run_dir / "compile_cache" if rank.run_dir else None


def metrics_file(run: Run) -> Path | None:
    """Rank 0's metrics: one file for all attempts of a run."""
    if run.rank.rank:
        return None
    return (run.rank.run_dir or run.outputs) / "metrics.jsonl"


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
        loss_scale={
            "kind": "static",
            "value": run.config.loss_scale,
            **run.overflows.to_json(),
        },
        categories=run.data.dataset.categories.to_json(),
        configuration=run.config.fingerprint(),
        world_size=run.rank.world_size,
        threads=backends.threads(),
        backend=run.backend,
        mindspore=ms.__version__,
    )
