"""What export, inference and prediction share as commands: own options, device, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model import backend as backends
from model.arguments import parse
from model.categories import CategoryTable
from model.coco_names import coco_categories
from model.config import Config, ConfigError
from model.config_report import show_help
from model.data_error import DataError
from model.exported import ModelFileError
from orchestrator.rank import Rank


@dataclass(frozen=True)
class Options:
    """A command line: options and flags of the command itself, its files, the parameters."""

    own: dict[str, str]
    flags: frozenset[str]
    files: tuple[str, ...]
    config: Config

    @property
    def names_device(self) -> bool:
        """Whether somebody asked for a device, on the command line or in a file."""
        return self.config.origin("device_target").kind != "default"


def read_options(
    words: Sequence[str],
    own: Sequence[str] = (),
    flags: Sequence[str] = (),
    *,
    takes_files: bool = False,
) -> Options:
    """Split `words`: `--name=value` of `own`, `--flag` of `flags`, files, parameters of Config.

    Raises ConfigError with every mistake.
    """
    values: dict[str, str] = {}
    given: set[str] = set()
    files, rest, problems = [], [], []
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and equals and name in own:
            if name in values:
                problems.append(f"--{name} is given twice")
            values[name] = value
        elif word.startswith("--") and not equals and name in flags:
            given.add(name)
        elif takes_files and not word.startswith("-"):
            files.append(word)
        else:
            rest.append(word)
    try:
        config = parse(rest)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)
    return Options(values, frozenset(given), tuple(files), config)


def number_of(
    options: Options, name: str, default: float, *, high: float, whole: bool = False
) -> float:
    """Read an own option as a number from 0 to `high`; raises ConfigError."""
    text = options.own.get(name, "")
    if not text:
        return default
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise ConfigError([f"--{name}={text}: expected {kind} from 0 to {high:g}"])
    return value


def use_device(options: Options, rank: Rank) -> backends.Backend:
    """Set MindSpore up for the device asked for; unasked, for the one it was built for.

    Raises ConfigError for a device that this MindSpore does not have.
    """
    if rank.backend or options.names_device:
        chosen = backends.choose(options.config, rank)
    else:
        import mindspore as ms

        chosen = ms.get_context("device_target").lower()
    try:
        backends.prepare(chosen, options.config.device_id)
    except (RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise ConfigError(
            [f"--device_target={chosen}, --device_id={options.config.device_id}: {reason}"]
        ) from error
    return chosen


def first_line(error: BaseException) -> str:
    """What MindSpore says, without its C++ call stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip("- ")]
    return lines[0] if lines else type(error).__name__


def categories_without_table(config: Config, what: str) -> CategoryTable:
    """The classes of a network (`what`) that came without a category table.

    Those of `annFile` if it is given, else COCO's if there are 80. Raises ConfigError, DataError.
    """
    from model.pictures import annotated

    if config.annFile:
        return annotated(config.annFile).table
    count = config.num_classes or (config.out_channel // 3 - 5 if config.out_channel else 80)
    table = coco_categories()
    if count != len(table):
        raise ConfigError(
            [f"{what}: no category table lies beside it; --annFile=FILE names its {count} classes"]
        )
    print(f"{what}: no category table lies beside it; taken for COCO's 80 classes", file=sys.stderr)
    return table


def run_command(run: Callable[[Sequence[str], Rank], None], arguments: Sequence[str] | None) -> int:
    """Run a command; returns 0, 64 for arguments, 65 or 66 for files, 1 for what failed.

    `--help` prints the docstring of the command's module and the parameters: SystemExit(0).
    """
    show_help(getattr(run, "__globals__", {}).get("__doc__"), arguments)
    rank = Rank.from_env()
    try:
        run(sys.argv[1:] if arguments is None else arguments, rank)
    except (ConfigError, DataError, ModelFileError) as error:
        if rank.active:
            raise
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if rank.active:
            raise
        print(f"{error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    rank.done()
    return 0
