"""Hypothesis strategies: secrets of runs that share everything public."""

from __future__ import annotations

import math
import struct
from itertools import product
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from chiron.leaktest.secrets import DataSecret, GuestSecret, lowest
from chiron.leaktest.two_runs import Secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chiron.guest_api.dataset import Schema

_F32_CONST, _HINTS, _LARGE = 0x43, 64, 1e9


def data_secrets(schema: Schema, hints: Sequence[float] = ()) -> st.SearchStrategy[DataSecret]:
    """Return data sets of a schema, which is public.

    Args:
        schema: shape, targets and size classes that all of them share.
        hints: values to try, such as constants of the guest (`constants`).
    """
    values = (0.0, 1.0, -1.0, 0.5, 2.0, 255.0, *hints)
    # one choice of all four: Hypothesis takes a time for each choice, which is most of a small guest's run
    rest = tuple(product(values, (0.0, 1.0, 100.0), range(9), range(4)))
    return st.builds(
        lambda rows, held_out, first, rest: DataSecret(rows, held_out, first, *rest),
        rows=st.integers(lowest(schema.rows_class), schema.rows_class),
        held_out=st.integers(lowest(schema.held_out_class), schema.held_out_class),
        first=st.sampled_from(values) | st.floats(-300, 300, width=32),
        rest=st.sampled_from(rest),
    )


def guest_secrets() -> st.SearchStrategy[GuestSecret]:
    """Return guests that could stand in the tested one's place with the same public header."""
    return st.builds(
        GuestSecret,
        ends_at=st.integers(0, 12),
        other=st.integers(0, 255),
        shorter=st.sampled_from((0, 1, 8, 1000)),
    )


def runs(
    schema: Schema, observer: str, hints: Sequence[float] = (), *, count: int = 2
) -> st.SearchStrategy[tuple[Secrets, ...]]:
    """Return so many runs' secrets: they differ in what is secret from the observer, and in nothing else."""
    data, guest = data_secrets(schema, hints), guest_secrets()
    if observer == "user":
        guests = st.tuples(*[guest] * count)
        return st.builds(lambda one, each: tuple(Secrets(one, other) for other in each), data, guests)
    one = st.builds(Secrets, data, st.just(GuestSecret()) if observer == "operator" else guest)
    return st.tuples(*[one] * count)


def constants(guest: bytes) -> tuple[float, ...]:
    """Return float32 constants that may stand in a guest's code: what it could compare secrets with.

    Source: WebAssembly core 2.0, section 5.4.7: `f32.const` is 0x43 and four bytes. Other bytes can look so.
    """
    found: dict[float, None] = {}
    at = guest.find(_F32_CONST)
    while at >= 0 and at + 5 <= len(guest):
        (value,) = struct.unpack_from("<f", guest, at + 1)
        if math.isfinite(value) and 1 / _LARGE < abs(value) < _LARGE:
            found[value] = None
        at = guest.find(_F32_CONST, at + 1)
    return tuple(found)[:_HINTS]
