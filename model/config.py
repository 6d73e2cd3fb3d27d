"""The configuration of training and evaluation: one typed, frozen value.

Names and defaults are those of the original's default_config.yaml (its /cache paths are empty
here), followed by our own. `model.arguments` reads it; `python -m model.config [--name=value ...]`
prints it, `--json` for programs. Plain values, no MindSpore.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from model.architecture import Architecture
from model.origin import DEFAULT, PROGRAM, Origin, as_yaml

SCHEDULERS = (
    "exponential",
    "cosine_annealing",
    "cosine_annealing_V2",
    "cosine_annealing_sample",
)
METRICS = ("AP", "AP50", "AP75", "AR_100")
PRECISIONS = ("auto", "float32", "float16", "bfloat16")
TARGETS = ("Ascend", "GPU", "CPU")
Integers = tuple[int, ...]


class ConfigError(ValueError):
    """What the user asked for cannot be done; `problems` lists every mistake found."""

    exit_code = 64

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def option(
    default: Any,
    meaning: str,
    *,
    choices: Sequence[Any] = (),
    low: float = -math.inf,
    above: float = -math.inf,
    high: float = math.inf,
    below: float = math.inf,
    pairs: str = "",
    graph: bool = True,
) -> Any:
    """One row of the table of parameters.

    The value lies in `choices`, or in [low, high], above `above` and below `below`. A list may be
    written as pairs: "joined" one after the other, or "square" where each stands for its side.
    `graph=False` says that it changes neither the compiled graph nor the course of training:
    paths, intervals, logging.
    """
    limits = {"choices": tuple(choices), "low": low, "above": above, "high": high, "below": below}
    limits["pairs"] = pairs
    return field(default=default, metadata={"meaning": meaning, "graph": graph, **limits})


def path(meaning: str, default: str = "") -> Any:
    """A row whose value is a path or a name of a file."""
    return option(default, meaning, graph=False)


@dataclass(frozen=True)
class Config:
    """Every parameter of the trainer, of evaluation and of their helpers."""

    config_path: str = path("YAML file of parameters; the command line goes before it")

    # Platform
    device_target: str = option("Ascend", "device, where muster does not say", choices=TARGETS)
    device_id: int = option(0, "device to run alone on", low=0, graph=False)
    is_distributed: bool = option(True, "train on all ranks (muster sets how many)", graph=False)
    rank: int = option(0, "taken from the environment", low=0, graph=False)
    group_size: int = option(1, "taken from the environment", low=1, graph=False)
    bind_cpu: bool = option(True, "muster binds ranks to CPUs", graph=False)
    device_num: int = option(8, "devices per server (muster knows)", low=1, graph=False)
    need_profiler: bool = option(False, "profile the first steps", graph=False)
    enable_modelarts: bool = option(False, "ModelArts is not supported", graph=False)
    need_modelarts_dataset_unzip: bool = option(True, "ModelArts only", graph=False)
    modelarts_dataset_unzip_name: str = path("ModelArts only", "coco2014")
    data_url: str = path("ModelArts only")
    train_url: str = path("ModelArts only")
    checkpoint_url: str = path("ModelArts only")
    data_path: str = path("ModelArts only")
    output_path: str = path("ModelArts only")
    load_path: str = path("ModelArts only")

    # Data
    data_dir: str = path("folder with train2017, val2017 and annotations")
    per_batch_size: int = option(32, "images per rank and step", low=1)
    training_shape: int | None = option(None, "one fixed side of the input; empty: multi-scale")
    multi_scale: Integers = option(
        tuple(range(320, 609, 32)), "sides to draw from", low=1, pairs="square"
    )
    resize_rate: int = option(1, "batches of one size in multi-scale training", low=1)
    max_box: int = option(50, "boxes per image", low=1)
    hue: float = option(0.1, "largest shift of hue", low=0)
    saturation: float = option(1.5, "largest factor of saturation", low=1)
    value: float = option(1.5, "largest factor of brightness", low=1)
    jitter: float = option(0.3, "change of aspect", low=0, high=0.99)

    # Network
    pretrained_backbone: str = path("checkpoint of Res2Net50 to start from")
    resume_yolov3: str = path("checkpoint of weights to fine-tune from")
    num_classes: int | None = option(None, "classes; empty: as many as the data has", low=1)
    out_channel: int | None = option(None, "channels of a head: 3 * (classes + 5)", low=18)
    backbone_input_shape: Integers = option((32, 64, 128, 256, 512), "not used by Res2Net")
    backbone_layers: Integers = option((1, 2, 8, 8, 4), "not used by Res2Net")
    backbone_shape: Integers = option((128, 256, 512, 1024, 2048), "widths of the heads", low=1)
    res2net_block: Integers = option((3, 4, 6, 3), "blocks of the four stages", low=1)
    res2net_in_channels: Integers = option((64, 256, 512, 1024), "inputs of the stages", low=1)
    res2net_out_channels: Integers = option((256, 512, 1024, 2048), "outputs of them", low=1)
    anchor_scales: Integers = option(
        (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326),
        "nine anchors as width,height pairs in pixels of the input",
        low=1,
        pairs="joined",
    )
    ignore_threshold: float = option(0.7, "overlap from which a cell is excused", above=0, high=1)

    # Optimizer and learning rate
    lr_scheduler: str = option("exponential", "course of the learning rate", choices=SCHEDULERS)
    lr: float = option(0.001, "learning rate after warm-up", above=0)
    lr_epochs: Integers = option((220, 250), "epochs at which lr falls (exponential)", low=0)
    lr_gamma: float = option(0.1, "factor by which it falls", above=0)
    eta_min: float = option(0.0, "lowest learning rate (cosine)", low=0)
    T_max: int = option(320, "half a period in epochs (cosine)", low=1)
    max_epoch: int = option(320, "epochs to train", low=1)
    warmup_epochs: float = option(0.0, "epochs of linear warm-up", low=0)
    weight_decay: float = option(0.0005, "weight decay of convolutions", low=0)
    momentum: float = option(0.9, "momentum", low=0, high=1)
    loss_scale: float = option(1024.0, "static loss scale of 16-bit precision", above=0)
    label_smooth: bool = option(False, "smooth the class labels")
    label_smooth_factor: float = option(0.1, "by how much", low=0, high=1)

    # Output
    log_interval: int = option(1, "steps between lines of the log", low=1, graph=False)
    ckpt_path: str = path("where outputs go", "outputs/")
    ckpt_interval: int = option(40, "steps between checkpoints; <= 0: an epoch", graph=False)
    is_save_on_master: bool = option(True, "rank 0 saves the network for all", graph=False)

    # Evaluation
    pretrained: str = path("checkpoint file or step directory to evaluate")
    testing_shape: int | None = option(None, "side of the input; empty: test_img_shape")
    test_img_shape: Integers = option((416, 416), "height,width of the input", low=32)
    nms_thresh: float = option(0.5, "overlap that suppresses a box", low=0, high=1)
    eval_ignore_threshold: float = option(0.001, "lowest score kept", low=0, high=1)
    annFile: str = path("annotations to evaluate against; empty: those of val2017")
    log_path: str = path("where evaluation writes", "outputs/")

    # Export, inference, conversion
    batch_size: int = option(1, "images per batch of the exported network", low=1)
    ckpt_file: str = path("checkpoint to export")
    file_name: str = path("name of the exported file", "yolov3_res2net50")
    file_format: str = option("MINDIR", "format", choices=("MINDIR", "AIR", "ONNX"), graph=False)
    keep_detect: bool = option(True, "export the decoding too")
    result_path: str = path("results of the inference on 310")
    img_path: str = path("images of it")
    input_file: str = path("weights to convert")
    output_file: str = path("file to convert to")

    # Ours
    seed: int = option(1, "of initial weights, order and augmentation", low=0)
    max_steps: int | None = option(None, "end after so many steps; empty: max_epoch", low=1)
    base_width: int = option(26, "width of a Res2Net group", low=1)
    scale: int = option(4, "groups of a Res2Net block", low=2)
    freeze_backbone: bool = option(True, "keep stem and first stage as loaded")
    backbone_bn: str = option("frozen", "backbone statistics", choices=("frozen", "batch"))
    data_workers: int | None = option(
        None, "threads that prepare batches; empty: one a CPU, up to 8; 0: none", low=0, graph=False
    )
    resume_from: str = path("step directory to go on from, when run without muster")
    checkpoint_dir: str = path("where step directories go, when run without muster")
    compile_cache: str = path("folder of compiled graphs, or off; empty: in the run directory")
    evaluate_at_end: bool = option(False, "evaluate the last checkpoint", graph=False)
    evaluate_every: int = option(0, "epochs between evaluations; 0: none", low=0, graph=False)
    best_metric: str = option("AP", "figure that says which is best", choices=METRICS, graph=False)
    early_stop: int = option(
        0, "end after so many evaluations without a better one; 0: never", low=0, graph=False
    )
    reset_head: bool = option(False, "with resume_yolov3: draw the heads anew", graph=False)
    clip_norm: float = option(0.0, "largest norm of the mean gradient; 0: any", low=0)
    ema_decay: float = option(0.0, "decay of the weights' moving average; 0: none", low=0, below=1)
    precision: str = option(
        "auto", "of the network; auto: float16 on GPU, else float32", choices=PRECISIONS
    )
    overflow_limit: int = option(
        8, "steps in a row that may be skipped for gradients not finite", low=0, graph=False
    )

    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False, repr=False)
    """Where the values come from that are no defaults; no parameter itself."""

    @property
    def anchors(self) -> tuple[tuple[int, int], ...]:
        """The nine (width, height) pairs of `anchor_scales`."""
        flat = self.anchor_scales
        return tuple(zip(flat[::2], flat[1::2], strict=True))

    @property
    def training_sides(self) -> Integers:
        """Sides of the input in training, ascending: one, or those of multi-scale training."""
        return (self.training_shape,) if self.training_shape else tuple(sorted(self.multi_scale))

    @property
    def testing_side(self) -> int:
        """Side of the input in evaluation, in pixels."""
        return self.testing_shape or self.test_img_shape[0]

    def architecture(self, num_classes: int) -> Architecture:
        """The network that is asked for, with `num_classes` classes; raises ConfigError."""
        try:
            return Architecture(
                backbone_shape=self.backbone_shape,
                res2net_block=self.res2net_block,
                res2net_in_channels=self.res2net_in_channels,
                res2net_out_channels=self.res2net_out_channels,
                num_classes=num_classes,
                base_width=self.base_width,
                scale=self.scale,
                anchors=self.anchors,
                ignore_threshold=self.ignore_threshold,
                freeze_backbone=self.freeze_backbone,
                backbone_bn=self.backbone_bn,  # type: ignore[arg-type]
            )
        except ValueError as error:
            raise ConfigError([str(error)]) from error

    def classes(self, in_data: int) -> int:
        """The number of classes, `in_data` by the category table; raises ConfigError."""
        problems = []
        if self.num_classes not in (None, in_data):
            problems.append(f"{self.written('num_classes')}: the data has {in_data} categories")
        if self.out_channel not in (None, 3 * (in_data + 5)):
            needed = 3 * (in_data + 5)
            problems.append(f"{self.written('out_channel')}: {in_data} categories need {needed}")
        if problems:
            raise ConfigError(problems)
        return in_data

    def origin(self, name: str) -> Origin:
        """Where the value of the parameter `name` comes from."""
        is_default = getattr(self, name) == getattr(Config, name)
        return self.origins.get(name, DEFAULT if is_default else PROGRAM)

    def written(self, name: str) -> str:
        """The parameter `name` with value and place, as the head of a message."""
        value = getattr(self, name)
        return self.origin(name).says(name, value if isinstance(value, str) else as_yaml(value))

    def changed(self, origin: Origin, **values: Any) -> Config:
        """This configuration with other values, which come from `origin`."""
        return replace(self, **values, origins={**self.origins, **dict.fromkeys(values, origin)})

    def fingerprint(self) -> str:
        """A digest of everything that changes the course of training; paths and origins do not."""
        values = {row.name: getattr(self, row.name) for row in PARAMETERS if row.metadata["graph"]}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def lines(self) -> list[str]:
        """Every argument with value and origin, for the head of a log: a configuration file."""
        return [
            f"{_assignment(row.name, getattr(self, row.name)):<44} # {self.origin(row.name)}"
            for row in PARAMETERS
        ]


def _assignment(name: str, value: Any) -> str:
    # A file cannot name another file.
    return f"{'# ' if name == 'config_path' else ''}{name}: {as_yaml(value)}"


PARAMETERS: tuple[Field[Any], ...] = tuple(row for row in fields(Config) if row.metadata)
"""The table of parameters: one row each, its meaning and limits in `metadata`."""

if __name__ == "__main__":
    from model.config_report import main

    sys.exit(main())
