"""The peer of `step_full_128_vs_torch`: `torch_step SHAPES WARM STEPS THREADS`.

SHAPES is a JSON file with the geometry of the convolutions. A step is all of them forward, the
trained ones backward (with respect to weights and inputs), and one momentum update of the trained
weights with weight decay. Less than a whole training step: no normalisation, no activation, no
loss and no data. Prints seconds a step, CPU seconds a step of all threads, and the peak memory.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.sides import peak_gigabytes, report

torch: Any = importlib.import_module("torch")


class Convolution:
    """One convolution with an input and a gradient of its output, both noise."""

    def __init__(self, shape: dict[str, Any]) -> None:
        outputs, kernel = shape["outputs"], shape["kernel"]
        self.trained = shape["trained"]
        self.weight = 0.01 * torch.randn(outputs[0], shape["inputs"][0], kernel, kernel)
        self.weight.requires_grad_(self.trained)
        self.input = torch.randn(1, *shape["inputs"], requires_grad=self.trained)
        self.gradient = torch.randn(1, *outputs)
        self.options = {"stride": shape["stride"], "padding": kernel // 2}

    def forward(self) -> Any:
        """The output."""
        return torch.nn.functional.conv2d(self.input, self.weight, **self.options)


def timed_steps(shapes: list[dict[str, Any]], warm: int, steps: int) -> dict[str, Any]:
    """Seconds and CPU seconds of `steps` steps after `warm` others, and the peak memory in GB."""
    convolutions = [Convolution(shape) for shape in shapes]
    trained = [convolution for convolution in convolutions if convolution.trained]
    optimizer = torch.optim.SGD(
        [convolution.weight for convolution in trained], lr=1e-6, momentum=0.9, weight_decay=0.0005
    )
    seconds, cpu = [], []
    for _ in range(warm + steps):
        since, used = time.perf_counter(), time.process_time()
        outputs = [convolution.forward() for convolution in convolutions]
        pairs = [(y, c.gradient) for y, c in zip(outputs, convolutions, strict=True) if c.trained]
        torch.autograd.backward([y for y, _ in pairs], [gradient for _, gradient in pairs])
        optimizer.step()
        optimizer.zero_grad()
        for convolution in trained:
            convolution.input.grad = None
        seconds.append(time.perf_counter() - since)
        cpu.append(time.process_time() - used)
    return {"seconds": seconds[warm:], "cpu": cpu[warm:], "memory": peak_gigabytes()}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    report(
        timed_steps(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), int(sys.argv[3]))
    )
