"""The sealed model: one size per size class of parameters and of guest, readable only under the model key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chiron.guest_api.augmentation import NOTHING, Augmentation
from chiron.guest_api.monitor import state_from_dict, state_to_dict
from chiron.guest_api.transforms import Transforms
from chiron.training.wire import canonical, pad, parse_map, unpad
from enclave import seal, unseal

if TYPE_CHECKING:
    from chiron.guest_api.dataset import Float32Array
    from chiron.policy import kernel
    from chiron.policy.header import Header

GRAPH_ROOM_BYTES = 1 << 20  # for everything in a graph that is not a parameter
AUGMENTATION_BYTES = 256
PURPOSE = "model"


def graph_message_bytes(header: Header) -> int:
    """Return the fixed size of the message that carries a graph: a function of the public header."""
    return 4 * header.parameters + GRAPH_ROOM_BYTES


@dataclass(frozen=True, slots=True)
class Model:
    """A trained network: the guest's graph, the flat float32 parameters, shape (n,), and what is before it.

    Of the augmentation, queries are normalised.
    """

    graph: bytes
    parameters: Float32Array
    transforms: Transforms | None = None
    augmentation: Augmentation = NOTHING


def pack_augmentation(augmentation: Augmentation) -> bytes:
    """Return an augmentation in AUGMENTATION_BYTES, as many where there is none: the plan is secret."""
    return pad(canonical(augmentation.as_dict()), AUGMENTATION_BYTES)


def unpack_augmentation(message: bytes) -> Augmentation:
    """Return what `pack_augmentation` was given.

    Raises:
        TrainingError: the message is something else.
    """
    return Augmentation.from_dict(parse_map(unpad(message)))


def pack_transforms(transforms: Transforms | None, room: int, *, state: kernel.State | None = None) -> bytes:
    """Return transforms, and the kernel state they start from, in `room` bytes; as many where there are none.

    Raises:
        TrainingError: they do not fit, which `carried_bytes` of their guest rules out.
    """
    if transforms is None:
        return pad(b"", room)
    fields = transforms.as_dict() | {"state": None if state is None else state_to_dict(state)}
    return pad(canonical(fields), room)


def unpack_transforms(message: bytes) -> tuple[Transforms | None, kernel.State | None]:
    """Return what `pack_transforms` was given.

    Raises:
        TrainingError: the message is something else.
    """
    content = unpad(message)
    if not content:
        return None, None
    fields = parse_map(content)
    state = fields.pop("state")
    return Transforms.from_dict(fields), None if state is None else state_from_dict(state)


def seal_model(model: Model, *, key: bytes, job: str, header: Header, room: int = 8) -> bytes:
    """Seal a model to its job; the blob's size depends on the header and the room for transforms alone."""
    graph = pad(model.graph, graph_message_bytes(header))  # CONF-4: one size a header
    parameters = pad(model.parameters.tobytes(), 4 * header.parameters + 8)
    transforms = pack_transforms(model.transforms, room)
    content = graph + parameters + pack_augmentation(model.augmentation) + transforms
    return seal(key, content, purpose=PURPOSE, context=job.encode())


def unseal_model(blob: bytes, *, key: bytes, job: str, header: Header) -> Model:
    """Open a sealed model.

    Raises:
        SealError: another key or job, or the blob was changed or cut.
    """
    content = unseal(key, blob, purpose=PURPOSE, context=job.encode())
    split = graph_message_bytes(header)
    behind = split + 4 * header.parameters + 8
    parameters = np.frombuffer(unpad(content[split:behind]), dtype="<f4")
    augmentation = unpack_augmentation(content[behind : behind + AUGMENTATION_BYTES])
    transforms, _ = unpack_transforms(content[behind + AUGMENTATION_BYTES :])
    return Model(unpad(content[:split]), parameters, transforms, augmentation)
