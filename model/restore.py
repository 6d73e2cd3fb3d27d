"""Loading: a checkpoint to resume from, or weights to evaluate or to start from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn

from model.checkpoint import (
    AVERAGE,
    CATEGORIES,
    FORMAT,
    MANIFEST,
    MODEL,
    PREFIX,
    STATE,
    TrainingState,
    measure,
    part_of,
    split_average,
    statistics_of,
)
from model.config import ConfigError
from model.donors import ignored_because
from model.journal import LOGGER
from orchestrator.rank import Rank

BACKBONE = "feature_map.backbone."
PREDICTING = ".conv6."
"""In the names of the convolutions whose shapes depend on the number of classes."""

NAMES_SHOWN = 5
_OPTIMIZER = ("global_step", "learning_rate", "momentum")


@dataclass(frozen=True)
class Loaded:
    """What was loaded: the state, and the sha256 of the manifest that vouches for it.

    `others` are statistics of the virtual ranks of this process after the first, by name.
    """

    state: TrainingState
    digest: str
    others: tuple[dict[str, np.ndarray], ...] = ()


class _Unusable(Exception):
    pass


def load(directory: Path, network: nn.Cell, rank: Rank) -> Loaded:
    """Load a checkpoint into the training step `network`: everything or nothing goes on.

    Sizes and sha256 of what is read are compared with the manifest; names, shapes and types must
    be exactly those of `network`. Any problem: `rank.unusable`, which raises CheckpointUnusable.
    ConfigError for a moving average that one of both has and the other has not.
    """
    try:
        return _load(directory, network, rank.virtual_ranks)
    except ConfigError:
        raise
    except _Unusable as problem:
        rank.unusable(directory, str(problem))
    except (OSError, ValueError, KeyError, TypeError) as error:
        rank.unusable(directory, f"{type(error).__name__}: {error}")


def _load(directory: Path, network: nn.Cell, ranks: range) -> Loaded:
    raw = (directory / MANIFEST).read_bytes()
    manifest = json.loads(raw)
    if manifest["format"] != FORMAT:
        raise _Unusable(f"{MANIFEST} has format {manifest['format']}, this reads {FORMAT}")
    own = {part_of(rank) for rank in ranks if rank < manifest["world_size"]}
    names = {MODEL, STATE} | own
    names |= {AVERAGE} & manifest["files"].keys()
    for name in sorted(names):
        _verify(directory / name, manifest["files"].get(name))
    state = read_state(directory)
    if (state.step, state.world_size) != (manifest["step"], manifest["world_size"]):
        raise _Unusable(f"{STATE} and {MANIFEST} tell different steps or world sizes")
    parameters, averages = split_average(network)
    _check_average(directory, manifest, wanted=bool(averages))
    _fill(parameters, directory / MODEL)
    if averages:
        _fill(averages, directory / AVERAGE)
    statistics = statistics_of(parameters)
    first, *others = ranks
    if first and part_of(first) in own:
        _fill(statistics, directory / part_of(first))
    read = (_fitting(statistics, directory / part_of(rank)) for rank in others)
    numbers = tuple({name: row.asnumpy() for name, row in found.items()} for found in read)
    return Loaded(state, hashlib.sha256(raw).hexdigest(), numbers)


def _check_average(directory: Path, manifest: dict[str, Any], *, wanted: bool) -> None:
    """Refuse to drop or to invent a moving average. Raises ConfigError."""
    if wanted and AVERAGE not in manifest["files"]:
        raise ConfigError([f"ema_decay: {directory} was written without a moving average"])
    if not wanted and AVERAGE in manifest["files"]:
        raise ConfigError([f"ema_decay=0: {directory} was written with a moving average"])


def read_state(directory: Path) -> TrainingState:
    """Read state.json; raises OSError, ValueError, KeyError."""
    content = json.loads((directory / STATE).read_bytes())
    return TrainingState(**{row.name: content[row.name] for row in fields(TrainingState)})


def _verify(path: Path, entry: dict[str, Any] | None) -> None:
    if entry is None:
        raise _Unusable(f"{MANIFEST} does not list {path.name}")
    if not path.is_file():
        raise _Unusable(f"{path.name} is missing")
    size, digest = measure(path)
    if size != entry["size"]:
        raise _Unusable(f"{path.name} has {size} bytes, {MANIFEST} says {entry['size']}")
    if digest != entry["sha256"]:
        raise _Unusable(f"{path.name} has another sha256 than {MANIFEST} says")


def _fill(parameters: dict[str, Parameter], file: Path) -> None:
    """Set exactly `parameters` from `file`."""
    found = _fitting(parameters, file)
    for name, parameter in parameters.items():
        parameter.set_data(found[name])


def _fitting(parameters: dict[str, Parameter], file: Path) -> dict[str, Parameter]:
    """What `file` has, which must be exactly for `parameters`."""
    found: dict[str, Parameter] = ms.load_checkpoint(str(file))
    problems = mismatches(parameters, found)
    if problems:
        raise _Unusable(f"{file.name} does not fit the network: " + "; ".join(problems))
    for name, row in found.items():
        # A snapshot of a rank that was killed may not have been looked at.
        if not np.isfinite(row.asnumpy()).all():
            raise _Unusable(f"{file.name}: {name} is not finite")
    return found


def mismatches(wanted: dict[str, Parameter], found: dict[str, Parameter]) -> list[str]:
    """What keeps `found` from being loaded into `wanted`: names, shapes, types."""
    problems = []
    for what, names in (("missing", wanted.keys() - found.keys()),
                        ("unexpected", found.keys() - wanted.keys())):  # fmt: skip
        if names:
            problems.append(f"{len(names)} {what} ({_some(sorted(names))})")
    unlike = [
        f"{name} is {tuple(found[name].shape)} {found[name].dtype}, "
        f"wanted {tuple(wanted[name].shape)} {wanted[name].dtype}"
        for name in sorted(wanted.keys() & found.keys())
        if (found[name].shape, found[name].dtype) != (wanted[name].shape, wanted[name].dtype)
    ]
    return problems + unlike[:NAMES_SHOWN]


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def load_weights(file: Path, network: nn.Cell, *, reset_head: bool = False) -> list[str]:
    """Load a network's parameters from a training checkpoint or one of weights alone.

    `file` may be a step directory; the averaged weights of one that has them are preferred. The
    prefix of training checkpoints is dropped, what belongs to the optimizer is passed over, and
    with `reset_head` the convolutions that predict are left alone; everything else must fit.
    Returns the names left alone. Raises ConfigError.
    """
    found = _weights(file)
    wanted = {row.name.removeprefix(PREFIX): row for row in network.get_parameters()}
    left = sorted(name for name in wanted if PREDICTING in name) if reset_head else []
    for name in left:
        del wanted[name]
        found.pop(name, None)
    _set_all(wanted, found, file)
    return left


def load_backbone(file: Path, network: nn.Cell) -> None:
    """Load the backbone of `network`, all of it, from `file`, which may hold more than a backbone.

    Names begin with `feature_map.backbone.`, or with nothing. Raises ConfigError, for another
    backbone too, one with more layers say.
    """
    content = _weights(file)
    if any(name.startswith(BACKBONE) for name in content):
        content = {name: row for name, row in content.items() if name.startswith(BACKBONE)}
    found = {
        name.removeprefix(BACKBONE): row
        for name, row in content.items()
        if not ignored_because(name)
    }
    wanted = {
        parameter.name.removeprefix(PREFIX).removeprefix(BACKBONE): parameter
        for parameter in network.get_parameters()
        if BACKBONE in parameter.name
    }
    _set_all(wanted, found, file)


def category_table(file: Path) -> list[dict[str, Any]] | None:
    """The category table that was saved beside a checkpoint of this trainer, if there is one."""
    directory = file if file.is_dir() else file.resolve().parent
    try:
        return read_state(directory).categories
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        rows: list[dict[str, Any]] = json.loads((directory / CATEGORIES).read_bytes())
        return rows
    except (OSError, ValueError):
        return None


def _is_averaged(directory: Path) -> bool:
    """Whether a step directory is to hold a moving average; one that got lost is to be missed."""
    try:
        return AVERAGE in json.loads((directory / MANIFEST).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return (directory / AVERAGE).exists()


def _weights(file: Path) -> dict[str, Parameter]:
    path = file
    if file.is_dir():
        path = file / (AVERAGE if _is_averaged(file) else MODEL)
    if not path.is_file():
        raise ConfigError([f"{path}: no such checkpoint"])
    LOGGER.info("weights: %s%s", path, ", a moving average" if path.name == AVERAGE else "")
    try:
        content = ms.load_checkpoint(str(path))
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigError([f"{path}: {error}"]) from error
    return {
        name.removeprefix(PREFIX): row
        for name, row in content.items()
        if name not in _OPTIMIZER and not name.startswith("moments.")
    }


def _set_all(wanted: dict[str, Parameter], found: dict[str, Parameter], file: Path) -> None:
    problems = mismatches(wanted, found)
    if problems:
        raise ConfigError([f"{file} does not fit the network: {problem}" for problem in problems])
    for name, parameter in wanted.items():
        parameter.set_data(found[name])
