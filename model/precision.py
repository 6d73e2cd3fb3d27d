"""Mixed precision: convolutions in 16 bits, everything that is delicate in 32.

Batch normalisation, loss, decoding, gradients, weights and the optimizer stay in float32; the
original decodes in float16 too, which moves boxes of the coarse heads by pixels.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn

from model.config import ConfigError

_TYPES = {"float16": ms.float16, "bfloat16": ms.bfloat16}
_KNOWN = {
    "cpu": ("float32", "float16"),
    "gpu": ("float32", "float16"),
    "ascend": ("float32", "float16", "bfloat16"),
}
"""Precisions that a backend of MindSpore 2.10 has kernels of convolutions for. On the CPU bfloat16
was tried; that GPUs lack it and Ascend has it (from the 910B on) is from the documentation."""


def precision_on(backend: str, asked: str) -> str:
    """The precision that is used; `auto` is the original's choice for `backend`.

    Raises ConfigError for one that the backend does not have.
    """
    if asked == "auto":
        return "float16" if backend == "gpu" else "float32"
    if asked not in _KNOWN[backend]:
        known = ", ".join(_KNOWN[backend])
        raise ConfigError([f"--precision={asked}: MindSpore on {backend} has {known}"])
    return asked


def lower_precision(network: nn.Cell, asked: str, backend: str) -> bool:
    """Let the convolutions of `network` compute in the precision that is asked for.

    Networks end in float32 or less: whoever goes on with the heads casts them. Returns whether
    anything is less than float32 now. Raises ConfigError.
    """
    kind = _TYPES.get(precision_on(backend, asked))
    if kind is None:
        return False
    network.to_float(kind)
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.BatchNorm2d):
            cell.to_float(ms.float32)
    return True
