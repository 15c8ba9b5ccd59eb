"""Answers with PyTorch's gradients: a line "NAME SEED FILE" in, the file written, the line back.

Runs in the environment of PyTorch: python tests/support/torch_peer.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from torch_cases import draw, head

torch.set_num_threads(1)


def gradients(name: str, seed: int) -> dict[str, Any]:
    """Return loss and gradients in float64, of rows and of each parameter."""
    layer, rows, targets = draw(name, seed)
    x = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    parameters = {
        key: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for key, value in layer.parameters.items()
    }
    result = getattr(torch.nn.functional, name)(x, **layer.options, **parameters).flatten(1)
    logits = result @ torch.tensor(head(result.shape[1], seed), dtype=torch.float64)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(targets))
    loss.backward()
    found = {"loss": np.array(loss.item()), "width": np.array(result.shape[1])}
    found["rows"] = x.grad.sum(dim=0).numpy()
    return found | {key: value.grad.numpy() for key, value in parameters.items()}


for line in sys.stdin:
    which, number, place = line.split()
    np.savez(place, **gradients(which, int(number)))
    sys.stdout.write(line)
    sys.stdout.flush()
