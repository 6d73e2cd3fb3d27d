"""Make a backbone of a classifier: `python -m model.convert --input_file=... --output_file=...`.

`--input_file` is a checkpoint of the ModelZoo's Res2Net50 classifier (.ckpt) or a state dict with
timm's names (.safetensors, such as res2net50d). `--output_file` (.ckpt) is then what
`--pretrained_backbone` takes. An account of every tensor is printed, with `--json` as one
document. A donor that does not fit is refused with the reason, and nothing is written;
`--allow=PATTERN` (repeatable, shell wildcards) leaves out tensors that nothing here takes.
Another backbone is described as for training: `--res2net_block=...`, `--base_width=...`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model import donors
from model.architecture import Architecture
from model.arguments import parse
from model.config import Config, ConfigError
from model.config_report import show_help
from model.donor_account import BACKBONE, Account, account_of
from model.donors import Shape

FLOATS = ("float16", "float32", "float64")
_SAFETENSORS_FLOATS = {"F16": "float16", "F32": "float32", "F64": "float64"}
_TORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02")


class DonorError(Exception):
    """The donor cannot become a backbone; `problems` says why, `account` what was found.

    `exit_code` is 65 if its content does not fit and 66 if it cannot be read.
    """

    def __init__(
        self, problems: Sequence[str], account: Account | None = None, exit_code: int = 65
    ) -> None:
        """Keep the parts; nothing has been written."""
        super().__init__(tuple(problems), account, exit_code)
        self.problems = tuple(problems)
        self.account = account
        self.exit_code = exit_code

    def __str__(self) -> str:
        """Return one line a problem."""
        return "\n".join(self.problems)


@dataclass(frozen=True)
class Donor:
    """A classifier's tensors: shape and type of each by name, and how to read one."""

    shapes: Mapping[str, Shape]
    types: Mapping[str, str]
    read: Callable[[str], np.ndarray]


def convert(
    source: Path, output: Path, architecture: Architecture, allow: Sequence[str] = ()
) -> Account:
    """Write the backbone of `architecture` with the weights of `source` to `output`.

    Everything or nothing: `output` appears whole and on disk, or is left as it was. Raises
    DonorError (65 does not fit, 66 cannot be read), ConfigError (64), OSError of a full disk.
    """
    _check_places(source, output)
    donor = open_donor(source)
    wanted = wanted_shapes(architecture)
    account = account_of(donor.shapes, wanted, allow)
    useless = [p for p in allow if not any(donors.allowed_by(n, [p]) for n in donor.shapes)]
    if useless:
        raise ConfigError([f"--allow={pattern}: no tensor has such a name" for pattern in useless])
    if problems := account.problems():
        raise DonorError([f"{source}: {problem}" for problem in problems], account)
    theirs = {ours: name for name, ours, _ in account.mapped}
    tensors, problems = {}, []
    for ours in wanted:
        values, problem = _values(donor, theirs[ours], ours)
        tensors[BACKBONE + ours] = values
        problems += [f"{source}: {problem}"] if problem else []
    if problems:
        raise DonorError(problems, account)
    write(output, tensors)
    return account


def wanted_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Name → shape of the backbone's tensors in their order, without `feature_map.backbone.`."""
    from model.res2net import Res2Net

    return {row.name: tuple(row.shape) for row in Res2Net(architecture).get_parameters()}


def open_donor(path: Path) -> Donor:
    """Look at a donor's tensors; raises DonorError."""
    if not path.is_file():
        raise DonorError([f"{path}: no such file"], exit_code=66)
    try:
        with open(path, "rb") as file:
            if file.read(4).startswith(_TORCH_MAGIC):
                raise DonorError(
                    [f"{path}: a PyTorch pickle, which may run code when it is read; "
                     "save its state dict as .safetensors first"]
                )  # fmt: skip
        return _open_safetensors(path) if path.suffix == ".safetensors" else _open_ckpt(path)
    except OSError as error:
        raise DonorError([f"{path}: {error.strerror or error}"], exit_code=66) from error


def _open_safetensors(path: Path) -> Donor:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(str(path), framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except SafetensorError as error:
        raise DonorError([f"{path}: not a safetensors file: {error}"]) from error
    types = {name: row.get_dtype() for name, row in slices.items()}
    return Donor(
        {name: tuple(row.get_shape()) for name, row in slices.items()},
        {name: _SAFETENSORS_FLOATS.get(kind, kind) for name, kind in types.items()},
        file.get_tensor,
    )


def _open_ckpt(path: Path) -> Donor:
    import mindspore as ms

    try:
        rows = ms.load_checkpoint(str(path))
    except (ValueError, RuntimeError) as error:
        raise DonorError([f"{path}: not a MindSpore checkpoint: {error}"]) from error
    return Donor(
        {name: tuple(row.shape) for name, row in rows.items()},
        {name: str(row.dtype).lower() for name, row in rows.items()},
        lambda name: rows[name].asnumpy(),
    )


def _values(donor: Donor, theirs: str, ours: str) -> tuple[np.ndarray | None, str]:
    """One tensor as float32, and what is wrong with it."""
    kind = donor.types[theirs]
    if kind not in FLOATS:
        return None, f"{theirs} is {kind}: one of {', '.join(FLOATS)} can be read"
    with np.errstate(over="ignore"):
        values = donor.read(theirs).astype(np.float32)
    if not np.isfinite(values).all():
        return None, f"{theirs} holds values that are not finite in float32"
    if ours.endswith(".moving_variance") and (values < 0).any():
        return None, f"{theirs} holds negative variances"
    return values, ""


def write(output: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a MindSpore checkpoint that appears at `output` whole and on disk, or not at all."""
    from mindspore import Parameter, Tensor

    from model.checkpoint import write_part

    rows = {name: Parameter(Tensor.from_numpy(v), name=name) for name, v in tensors.items()}
    write_part(output.absolute().parent, output.name, rows)
    descriptor = os.open(output.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_places(source: Path, output: Path) -> None:
    problems = []
    if output.suffix != ".ckpt":
        problems.append(f"--output_file={output}: MindSpore reads names that end in .ckpt only")
    if not output.absolute().parent.is_dir():
        problems.append(f"--output_file={output}: there is no folder {output.parent}")
    if output.exists() and source.exists() and output.samefile(source):
        problems.append(f"--output_file={output} is the input file itself")
    if problems:
        raise ConfigError(problems)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 64 for arguments, 65 for a donor that does not fit, 66 unread."""
    show_help(__doc__, arguments)
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    allow = [word.removeprefix("--allow=") for word in words if word.startswith("--allow=")]
    rest = [word for word in words if word != "--json" and not word.startswith("--allow=")]
    problems: tuple[str, ...] = ()
    config, account, code = Config(), None, 0
    try:
        config = parse(rest)
        _require_files(config)
        source, output = Path(config.input_file), Path(config.output_file)
        account = convert(source, output, config.architecture(1), allow)
    except (ConfigError, DonorError) as error:
        account = getattr(error, "account", None)
        problems, code = error.problems, error.exit_code
    except OSError as error:
        problems, code = (f"--output_file={config.output_file}: {error}",), 1
    if as_json:
        found = account.to_json() if account else {}
        print(json.dumps({"written": not code, "refused": list(problems), **found}, indent=1))
    elif account:
        print("\n".join(account.lines()))
    for problem in problems:
        print(problem, file=sys.stderr)
    if not code and not as_json:
        print(f"written: {config.output_file}")
    return code


def _require_files(config: Config) -> None:
    names = [name for name in ("input_file", "output_file") if not getattr(config, name)]
    if names:
        raise ConfigError([f"--{name}: give the path" for name in names])


if __name__ == "__main__":
    sys.exit(main())
