"""The sealed model: one size per size class, readable only under the job's model key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chiron.training.wire import pad, unpad
from enclave import seal, unseal

if TYPE_CHECKING:
    from chiron.guest_api.dataset import Float32Array
    from chiron.policy.header import Header

GRAPH_ROOM_BYTES = 1 << 20  # for everything in a graph that is not a parameter
PURPOSE = "model"


def graph_message_bytes(header: Header) -> int:
    """Return the fixed size of the message that carries a graph: a function of the public header."""
    return 4 * header.parameters + GRAPH_ROOM_BYTES


@dataclass(frozen=True, slots=True)
class Model:
    """A trained network: the guest's graph and the flat float32 parameters, shape (n,)."""

    graph: bytes
    parameters: Float32Array


def seal_model(model: Model, *, key: bytes, job: str, header: Header) -> bytes:
    """Seal a model to its job; the blob's size depends on the header alone."""
    graph = pad(model.graph, graph_message_bytes(header))  # CONF-4: one size a header
    parameters = pad(model.parameters.tobytes(), 4 * header.parameters + 8)
    return seal(key, graph + parameters, purpose=PURPOSE, context=job.encode())


def unseal_model(blob: bytes, *, key: bytes, job: str, header: Header) -> Model:
    """Open a sealed model.

    Raises:
        SealError: another key or job, or the blob was changed or cut.
    """
    content = unseal(key, blob, purpose=PURPOSE, context=job.encode())
    split = graph_message_bytes(header)
    parameters = np.frombuffer(unpad(content[split:]), dtype="<f4")
    return Model(unpad(content[:split]), parameters)
