"""Values that are fine by themselves and cannot be together: a table of rules."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from model.architecture import STRIDES
from model.config import Config, ConfigError

_NETWORK = ("backbone_shape", "res2net_block", "res2net_in_channels", "res2net_out_channels",
            "base_width", "scale")  # fmt: skip


def contradictions(config: Config, unread: Collection[str] = ()) -> list[str]:
    """What does not go together; nothing about the parameters in `unread`.

    Each problem opens with the values in question that are no defaults, and their places.
    """
    found = []
    for wrong, names, said in [*_sides(config), *_rules(config), *_network(config, unread)]:
        if wrong and not set(names) & set(unread):
            given = [n for n in names if config.origin(n).kind != "default"] or names
            found.append(f"{', '.join(map(config.written, given))}: {said}")
    return found


_Rule = tuple[bool, tuple[str, ...], str]


def _sides(c: Config) -> Iterator[_Rule]:
    coarsest = STRIDES["l"]
    lists = {
        "training_shape": [c.training_shape],
        "testing_shape": [c.testing_shape],
        "multi_scale": c.multi_scale,
        "test_img_shape": dict.fromkeys(c.test_img_shape),
    }
    for name, sides in lists.items():
        for side in sides:
            wrong = side is not None and (side <= 0 or side % coarsest != 0)
            yield wrong, (name,), f"side {side} is not a positive multiple of {coarsest}"


def _rules(c: Config) -> list[_Rule]:
    channels = 3 * ((c.num_classes or 0) + 5)
    return [
        (not c.multi_scale, ("multi_scale",), "at least one side is needed"),
        (len(set(c.test_img_shape)) != 1 or len(c.test_img_shape) > 2, ("test_img_shape",),
         "only squares can be evaluated"),
        (len(c.anchor_scales) != 18, ("anchor_scales",),
         f"{len(c.anchor_scales)} numbers, not 18"),
        (c.eta_min > c.lr, ("eta_min", "lr"), f"eta_min={c.eta_min:g} is above lr={c.lr:g}"),
        (c.warmup_epochs > c.max_epoch, ("warmup_epochs", "max_epoch"),
         f"warmup_epochs={c.warmup_epochs:g} is above max_epoch={c.max_epoch}"),
        (c.evaluate_every > c.max_epoch, ("evaluate_every", "max_epoch"),
         f"evaluate_every={c.evaluate_every} is above max_epoch={c.max_epoch}: "
         "no evaluation would happen; evaluate_at_end=1 asks for one at the end"),
        (bool(c.early_stop and not c.evaluate_every), ("early_stop", "evaluate_every"),
         "early_stop counts evaluations: give evaluate_every too"),
        (bool(c.reset_head and not c.resume_yolov3), ("reset_head", "resume_yolov3"),
         "reset_head is about the weights of resume_yolov3: give that too"),
        (bool(c.resume_yolov3 and c.resume_from), ("resume_yolov3", "resume_from"),
         "resume_yolov3 starts anew from weights, resume_from goes on: give one of them"),
        (c.num_classes is not None and c.out_channel not in (None, channels),
         ("num_classes", "out_channel"),
         f"out_channel={c.out_channel} contradicts num_classes={c.num_classes}: "
         f"leave it out, or give {channels}"),
        (c.enable_modelarts, ("enable_modelarts",),
         "ModelArts is not supported: leave it at False and give paths of this machine"),
    ]  # fmt: skip


def _network(c: Config, unread: Collection[str]) -> Iterator[_Rule]:
    if len(c.anchor_scales) != 18 or {*_NETWORK, "anchor_scales"} & set(unread):
        return
    try:
        c.architecture(c.num_classes or 1)
    except ConfigError as error:
        name, _, said = error.problems[0].partition(": ")
        if c.origin(name).kind != "default":
            yield True, (name,), said
        else:  # something else that was given does not fit it
            yield True, _NETWORK, f"{name}: {said}"
