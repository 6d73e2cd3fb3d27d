"""Documents as JSON bytes. What JSON does not have (NaN, the infinities) becomes null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response


def encoded(document: Any) -> bytes:
    """The document as ASCII JSON: no text, however broken, can fail to be encoded."""
    try:
        return _ENCODER.encode(document).encode()
    except ValueError:
        return _ENCODER.encode(_finite(document)).encode()


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


class Json(Response):
    """An answer that is a document."""

    media_type = "application/json"

    def __init__(
        self, document: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(encoded(document), status, headers)
