"""What an exported network is: the file, and beside it `<file>.json` that spares later guesses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.categories import CategoryTable
from model.config import Config

FORMAT = 1
DESCRIPTION = ".json"


class ModelFileError(Exception):
    """An exported network cannot be written (1), is not what it should be (65) or unread (66)."""

    def __init__(self, problems: Sequence[str], exit_code: int = 65) -> None:
        """Keep the parts."""
        super().__init__(tuple(problems), exit_code)
        self.problems = tuple(problems)
        self.exit_code = exit_code

    def __str__(self) -> str:
        """Return one line a problem."""
        return "\n".join(self.problems)


@dataclass(frozen=True)
class Exported:
    """One exported network.

    It takes `batch` images (3, `side`, `side`); `decoded` says whether boxes or raw heads come
    out. `anchors` are (width, height) in pixels of the input. `size` (bytes) and `sha256` are the
    file's; without a description beside the file they are 0 and empty.
    """

    file_format: str
    batch: int
    side: int
    decoded: bool
    categories: CategoryTable
    anchors: tuple[tuple[float, float], ...]
    size: int = 0
    sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the form of `<file>.json`."""
        return {
            "format": FORMAT, "file_format": self.file_format, "batch": self.batch,
            "side": self.side, "decoded": self.decoded, "anchors": [list(a) for a in self.anchors],
            "size": self.size, "sha256": self.sha256, "categories": self.categories.to_json(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Exported:
        """Read back what `to_json` gave; raises KeyError, TypeError or ValueError."""
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this reads {FORMAT}")
        return cls(
            str(content["file_format"]),
            int(content["batch"]),
            int(content["side"]),
            bool(content["decoded"]),
            CategoryTable.from_json(content["categories"]),
            tuple((float(w), float(h)) for w, h in content["anchors"]),
            int(content["size"]),
            str(content["sha256"]),
        )


def description_of(file: Path) -> Path:
    """Where the description of an exported `file` lies."""
    return file.with_name(file.name + DESCRIPTION)


def read_description(file: Path) -> Exported | None:
    """Read what stands beside `file`, None if nothing does, and compare it with the file.

    Raises ModelFileError: 66 if a file cannot be read, 65 if the two do not belong together.
    """
    if not file.is_file():
        raise ModelFileError([f"{file}: no such file; give the MindIR of model.export"], 66)
    beside = description_of(file)
    try:
        found = Exported.from_json(json.loads(beside.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelFileError([f"{beside}: {error.strerror or error}"], 66) from error
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{beside}: does not describe a network ({error!r}); export again"
        raise ModelFileError([problem]) from error
    _compare(file, beside, found)
    return found


def _compare(file: Path, beside: Path, found: Exported) -> None:
    from model.checkpoint import measure

    size, digest = measure(file)
    if size != found.size:
        what = f"{file} has {size} bytes, {beside.name} says {found.size}"
    elif digest != found.sha256:
        what = f"{file} has another sha256 than {beside.name} says"
    else:
        return
    raise ModelFileError([f"{what}: cut short, damaged or replaced; copy both anew or export"])


def described_by(config: Config, categories: CategoryTable) -> Exported:
    """What the arguments say of a MindIR without a description, such as the ModelZoo's."""
    return Exported(
        "MINDIR",
        config.batch_size,
        config.testing_side,
        config.keep_detect,
        categories,
        config.anchors,
    )
