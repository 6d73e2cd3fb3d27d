"""What lies between the tensors in a file of `ms.save_checkpoint`: learnt once, written again.

The file is a protobuf message (`checkpoint.proto`): for every parameter its name, shape and type,
then its bytes, large ones in several pieces. All but the bytes stays the same from one save to the
next, so a later file is made of the frame of an earlier one and the tensors as they are now.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Parameter

_VALUE, _TAG, _TENSOR, _CONTENT = 1, 1, 2, 3
_LENGTH_DELIMITED, _VARINT = 2, 0


@dataclass(frozen=True)
class Piece:
    """Bytes of the frame, then `length` bytes of the content of `name` from `start` on."""

    before: bytes
    name: str
    start: int
    length: int


@dataclass(frozen=True)
class Frame:
    """A file as pieces in their order; nothing follows the last."""

    pieces: tuple[Piece, ...]

    @classmethod
    def read(cls, path: Path) -> Frame:
        """Learn it from a file. Raises OSError, ValueError for a file of another kind."""
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                return cls(())
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
                try:
                    return cls(tuple(_pieces(content)))
                except (IndexError, UnicodeDecodeError) as error:
                    raise ValueError(f"{path} is no checkpoint of MindSpore: {error}") from error

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(len(piece.before) + piece.length for piece in self.pieces)

    def fits(self, parameters: Mapping[str, Parameter]) -> bool:
        """Whether a file of these parameters has this frame."""
        lengths = dict.fromkeys(parameters, 0)
        for piece in self.pieces:
            lengths[piece.name] = lengths.get(piece.name, -1) + piece.length
        return lengths == {name: row.nbytes for name, row in parameters.items()}

    def write(self, target: np.ndarray, parameters: Mapping[str, Parameter]) -> None:
        """Write the file of these parameters as they are now into `target` (size,), uint8."""
        at = 0
        for piece in self.pieces:
            array = np.ascontiguousarray(parameters[piece.name].asnumpy())
            content = array.reshape(-1).view(np.uint8)[piece.start : piece.start + piece.length]
            for part in (np.frombuffer(piece.before, np.uint8), content):
                target[at : at + part.size] = part
                at += part.size


def mapped(path: Path, size: int) -> np.ndarray:
    """A file of `size` bytes as memory that is written to; made if it is not there. Raises OSError.

    Half the time of writing it by calls, once its pages are there.
    """
    if size == 0:
        path.write_bytes(b"")
        return np.empty(0, np.uint8)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, 0)
            # Not a hole: a full tmpfs must be an error here, not a SIGBUS later.
            os.posix_fallocate(descriptor, 0, size)
        return np.frombuffer(mmap.mmap(descriptor, size), np.uint8)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Numbers:
    """Numbers in a file that need not be finite: of what type, how many, from which byte on."""

    kind: np.dtype[np.floating]
    count: int
    offset: int


def numbers(frame: Frame, parameters: Mapping[str, Parameter]) -> list[Numbers]:
    """Where a file with this frame holds them; the same for every file of a training."""
    found = []
    offset = 0
    for piece in frame.pieces:
        offset += len(piece.before)
        kind = _numpy_type(parameters[piece.name])
        if kind is not None and piece.length:
            found.append(Numbers(kind, piece.length // kind.itemsize, offset))
        offset += piece.length
    return found


def finite(path: Path, where: Sequence[Numbers]) -> bool:
    """Whether all of them are finite: read from the file itself. Raises OSError, ValueError."""
    if not where:
        return True
    with (
        np.errstate(invalid="ignore", over="ignore"),
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        for one in where:
            values = np.frombuffer(content, one.kind, one.count, one.offset)
            # Nothing that is not finite gets lost in a sum, which needs no memory.
            whole = math.isfinite(np.add.reduce(values, dtype=_wide(one.kind)))
            del values  # or the map cannot be closed
            if not whole:
                return False
    return True


def _wide(kind: np.dtype[np.floating]) -> np.dtype[np.floating]:
    """The type to sum in: a sum of 16-bit numbers leaves their range before it means anything."""
    return kind if kind.itemsize >= 4 else np.dtype(np.float32)


def _numpy_type(parameter: Parameter) -> np.dtype[np.floating] | None:
    """The type of a parameter's numbers, if they can be anything but finite."""
    kind = np.dtype(str(parameter.dtype).lower())
    return kind if kind.kind == "f" else None


def _pieces(content: mmap.mmap) -> list[Piece]:
    """The pieces of a `Checkpoint` message."""
    pieces: list[Piece] = []
    starts: dict[str, int] = {}
    at = end = 0
    while at < len(content):
        field, kind, at = _key(content, at)
        if (field, kind) != (_VALUE, _LENGTH_DELIMITED):
            raise ValueError(f"field {field} of wire type {kind} in a checkpoint")
        length, at = _varint(content, at)
        if at + length > len(content):
            raise ValueError("a checkpoint that ends too early")
        name, begin, size = _value(content, at, at + length)
        at += length
        if begin + size != at:
            raise ValueError(f"something follows the content of {name}")
        start = starts.get(name, 0)
        pieces.append(Piece(content[end:begin], name, start, size))
        starts[name] = start + size
        end = at
    return pieces


def _value(content: mmap.mmap, at: int, end: int) -> tuple[str, int, int]:
    """Name of a `Value`, and where the content of its tensor begins and how long it is."""
    name, begin, size = "", end, 0
    while at < end:
        field, kind, at = _key(content, at)
        length, at = _varint(content, at)
        if kind == _VARINT:
            continue
        if kind != _LENGTH_DELIMITED:
            raise ValueError(f"wire type {kind} in a parameter")
        if field == _TAG:
            name = content[at : at + length].decode()
        elif field == _TENSOR:
            begin, size = _tensor(content, at, at + length)
        else:
            raise ValueError(f"field {field} in a parameter")
        at += length
    return name, begin, size


def _tensor(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Where the content of a `TensorProto` begins, and how long it is."""
    begin, size = end, 0
    while at < end:
        field, kind, at = _key(content, at)
        length, at = _varint(content, at)
        if kind == _VARINT:
            continue
        if kind != _LENGTH_DELIMITED:
            raise ValueError(f"wire type {kind} in a tensor")
        if field == _CONTENT:
            begin, size = at, length
        at += length
    return begin, size


def _key(content: mmap.mmap, at: int) -> tuple[int, int, int]:
    key, at = _varint(content, at)
    return key >> 3, key & 7, at


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first; and what follows it."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
