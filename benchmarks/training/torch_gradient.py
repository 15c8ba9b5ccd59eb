"""`python -m benchmarks.training.torch_gradient SAMPLE ANSWER`: PyTorch's gradients of one batch, as NPZ.

SAMPLE has `net`, `parameters`, `x` and `y`; ANSWER gets `float64` and both layouts in float32, each a flat
array of float64.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from benchmarks.training.nets import NETS
from benchmarks.training.torch_worker import PLANES, sequence

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last


def gradient(sample: Any, *, dtype: torch.dtype, layout: torch.memory_format) -> NDArray[np.float64]:  # noqa: ANN401
    """Return the gradient of the mean cross-entropy at the sample's parameters, flat."""
    net = NETS[str(sample["net"])]
    layout = layout if len(net.shape) == PLANES else CONTIGUOUS
    model: Any = sequence(net.layers).to(dtype)
    nn.utils.vector_to_parameters(torch.from_numpy(sample["parameters"]).to(dtype), model.parameters())
    model = model.to(memory_format=layout)
    x = torch.from_numpy(sample["x"]).to(dtype=dtype, memory_format=layout)
    nn.functional.cross_entropy(model(x), torch.from_numpy(sample["y"])).backward()
    parts = [parameter.grad.contiguous().numpy().ravel() for parameter in model.parameters()]
    return np.concatenate(parts).astype(np.float64)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with np.load(sys.argv[1]) as given:
        np.savez(
            sys.argv[2],
            float64=gradient(given, dtype=torch.float64, layout=CONTIGUOUS),
            contiguous=gradient(given, dtype=torch.float32, layout=CONTIGUOUS),
            channels_last=gradient(given, dtype=torch.float32, layout=CHANNELS_LAST),
        )
