"""Writing a network in MindSpore's formats, each into a folder aside, and running what came out."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import mindspore as ms
import mindspore.onnx
import numpy as np
from mindspore import Tensor, nn, ops

from model.detector import Network, load_graph, run_cell
from model.exported import ModelFileError
from model.options import first_line
from model.res2net import StemNorm

SUFFIXES = {"MINDIR": ".mindir", "ONNX": ".onnx", "AIR": ".air"}


class PortableStemNorm(nn.Cell):
    """`StemNorm` at inference without Rsqrt, which MindSpore 2.10 cannot put into ONNX."""

    def __init__(self, norm: StemNorm) -> None:
        """Share the parameters of `norm`."""
        super().__init__(auto_prefix=False)
        self.gamma, self.beta, self.eps = norm.gamma, norm.beta, norm.eps

    def construct(self, x: Tensor) -> Tensor:
        """Normalise (B, C, h, w) over B, h and w."""
        centred = x - x.mean((0, 2, 3), keep_dims=True)
        variance = (centred * centred).mean((0, 2, 3), keep_dims=True)
        scale = self.gamma.reshape(1, -1, 1, 1) / ops.sqrt(variance + self.eps)
        return centred * scale + self.beta.reshape(1, -1, 1, 1)


def use_portable_stem(network: nn.Cell) -> None:
    """Replace every `StemNorm` within `network`, in place; the parameters stay the same."""
    for _, cell in list(network.cells_and_names()):
        for name, child in list(cell.name_cells().items()):
            if isinstance(child, StemNorm):
                setattr(cell, name, PortableStemNorm(child))


def write(network: nn.Cell, images: np.ndarray, file: Path, file_format: str) -> None:
    """Write `network` for inputs like `images` to `file`, alone in its folder.

    Raises ModelFileError (1) with MindSpore's reason. `network` is of no further use after ONNX.
    """
    inputs = Tensor.from_numpy(images)
    try:
        if file_format == "ONNX":
            use_portable_stem(network)
            mindspore.onnx.export(network, inputs, file_name=str(file))
        else:
            ms.export(network, inputs, file_name=str(file), file_format=file_format)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        problem = f"MindSpore {ms.__version__} does not export this network to {file_format}"
        raise ModelFileError([f"--file_format: {problem}: {first_line(error)}"], 1) from error
    if not file.is_file():
        left = ", ".join(sorted(path.name for path in file.parent.iterdir())) or "nothing"
        raise ModelFileError([f"{file.name}: MindSpore left {left} instead of one file"], 1)


def runner(file: Path, file_format: str) -> tuple[Network, str] | tuple[None, str]:
    """How to run an exported file anew, and by what; None and the reason where nothing can."""
    if file_format == "MINDIR":
        return run_cell(load_graph(file)), "mindspore"
    if file_format == "AIR":
        return None, "only an Ascend device can run an AIR file"
    if importlib.util.find_spec("onnxruntime") is None:
        return None, "onnxruntime is not installed"
    return _onnx_runner(file), "onnxruntime"


def _onnx_runner(file: Path) -> Network:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})
