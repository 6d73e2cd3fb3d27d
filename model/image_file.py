"""One image file: what its header says, and its pixels under the rules of training.

The rules: whatever the file holds becomes 8-bit RGB. Grey is repeated in all channels, alpha is
dropped (not blended), palettes and CMYK are converted, of 16-bit PNG the high byte stays, of an
animation the first picture. The annotated width and height decide about EXIF orientation: pixels
are read as stored if that is the annotated size, and turned as the tag says if only then it is.

Headers of JPEG (ITU-T T.81, Annex B) and PNG (W3C PNG, 11.2.1) are read here, so that a size that
is wrong, or far too large, is known before anything is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from model.data_error import EXIT_NOT_READABLE, EXIT_WRONG_CONTENT, DataError

if TYPE_CHECKING:
    from model.coco import CocoImage

MAX_PIXELS = 1 << 26
"""Larger images are refused: 67 megapixels are 201 MB of RGB in every data worker."""

GONE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Facts about a file, the same at every try. Any other OSError is the storage's, and may pass."""

MISSING, UNDECODABLE, OTHER_SIZE = "image_missing", "image_undecodable", "image_size"

JPEG_START, _PNG_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of itself: pixels as stored, channels, bits a channel, EXIF orientation."""

    width: int
    height: int
    channels: int
    bits: int
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as stored."""
        return self.width, self.height


@dataclass(frozen=True)
class Flaw:
    """Why a file cannot be used: MISSING, UNDECODABLE or OTHER_SIZE, and in words."""

    kind: str
    message: str


def read_header(content: bytes) -> ImageHeader | None:
    """Read the header of a JPEG or PNG; None for other formats and for what is cut short."""
    if content.startswith(JPEG_START):
        return _jpeg_header(content)
    if content.startswith(_PNG_START) and content[12:16] == b"IHDR" and len(content) >= 26:
        width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
        return ImageHeader(width, height, _PNG_CHANNELS.get(content[25], 3), content[24])
    return None


def _jpeg_header(content: bytes) -> ImageHeader | None:
    """Walk from marker to marker up to the frame header."""
    position, orientation = len(JPEG_START), 1
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _BARE_MARKERS:
            position += 2
            continue
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        body = content[position + 4 : position + 2 + length]
        if marker in _FRAMES and len(body) >= 6:
            height, width = (int.from_bytes(body[i : i + 2], "big") for i in (1, 3))
            return ImageHeader(width, height, body[5], body[0], orientation)
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = _orientation(body[6:])
        position += 2 + length
    return None


def _orientation(tiff: bytes) -> int:
    """Return the orientation (1-8) of an EXIF block's first directory; 1 if it says none."""
    order = "little" if tiff.startswith(b"II") else "big"

    def number(start: int, size: int) -> int:
        return int.from_bytes(tiff[start : start + size], order)  # type: ignore[arg-type]

    first = number(4, 4)
    for entry in range(first + 2, min(first + 2 + 12 * number(first, 2), len(tiff) - 11), 12):
        if number(entry, 2) == _ORIENTATION_TAG:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def size_flaw(size: tuple[int, int], image: CocoImage) -> Flaw | None:
    """Compare a (width, height) with the annotated one."""
    if size == (image.width, image.height):
        return None
    return Flaw(
        OTHER_SIZE,
        f"image {image.id} has {size[0]}x{size[1]} pixels, its annotation says "
        f"{image.width}x{image.height}: its boxes would be misplaced; correct one of both",
    )


def decode(content: bytes, image: CocoImage) -> np.ndarray | Flaw:
    """Decode to (height, width, 3) uint8 RGB of the annotated size; a pure function.

    A JPEG or PNG of neither that size nor its transpose is not decoded at all.
    """
    header = read_header(content)
    annotated = (image.width, image.height)
    turned = header is not None and header.size != annotated
    if header is not None and turned and header.size != annotated[::-1]:
        return size_flaw(header.size, image)  # type: ignore[return-value]
    pixels = _pixels(content, turned=turned)
    if pixels is not None and header is None and pixels.shape[:2] == annotated != annotated[::-1]:
        pixels = _pixels(content, turned=True)
    if pixels is None:
        message = f"image {image.id}: {len(content)} bytes that are no image; replace the file"
        return Flaw(UNDECODABLE, message)
    return size_flaw((pixels.shape[1], pixels.shape[0]), image) or pixels


def _pixels(content: bytes, *, turned: bool) -> np.ndarray | None:
    flags = cv2.IMREAD_COLOR_RGB | (0 if turned else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error:  # more pixels than OpenCV takes
        return None


def missing_flaw(image: CocoImage, error: OSError) -> Flaw:
    """Say that the file of ``image`` is not there or may not be read."""
    return Flaw(MISSING, f"image {image.id}: {error.strerror or error}; restore {image.path}")


def load_image(image: CocoImage) -> np.ndarray | Flaw:
    """Read and decode the file of ``image``; a pure function of what lies on disk.

    An OSError outside GONE passes: that is the storage's fault, not the data's.
    """
    try:
        content = Path(image.path).read_bytes()
    except GONE as error:
        return missing_flaw(image, error)
    return decode(content, image)


def read_image(image: CocoImage) -> np.ndarray:
    """Return :func:`load_image`'s pixels, (height, width, 3) uint8 RGB.

    Raises DataError: 66 if the file is not there or may not be read, 65 if it is no image or not
    of the annotated size. An OSError outside GONE passes.
    """
    loaded = load_image(image)
    if isinstance(loaded, Flaw):
        code = EXIT_NOT_READABLE if loaded.kind == MISSING else EXIT_WRONG_CONTENT
        raise DataError(image.path, [loaded.message], code)
    return loaded
