"""Whatever graph, plan, notes and transforms a guest comes up with: what carries them has one size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from deployments import POLICY, small_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.guest_api.plan import OPTIMISERS, PLAN, SCHEDULES, VERSION, parse_plan
from chiron.guest_api.transforms import EXPORTS, Transforms, carried_bytes
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header
from chiron.training.errors import TrainingError
from chiron.training.exchange import PLAN_BYTES, _of_server, parse_plan_message
from chiron.training.sealed import Model, graph_message_bytes, pack_transforms, seal_model, unseal_model
from chiron.training.wire import canonical, pad, unpad

HEADER = Header(1, 16, 1, 4096, 5, 1000)
KEY, JOB, GUEST = bytes(32), "0" * 32, bytes(300)
GRAPHS = st.binary(max_size=2000) | st.integers(0, graph_message_bytes(HEADER) - 8).map(bytes)
NOTES = st.binary(max_size=POLICY.sinks["notes"].capacity_bytes)
TRANSFORMS = st.none() | st.builds(
    lambda notes, names: Transforms(GUEST, notes, tuple(names)),
    NOTES,
    st.lists(st.sampled_from(EXPORTS), unique=True, min_size=1),
)
PLANS = st.builds(
    PLAN.pack,
    st.just(VERSION),
    st.integers(0, len(OPTIMISERS) - 1),
    st.floats(0, 10, exclude_min=True, width=32),
    st.floats(0, 1, exclude_max=True, width=32),
    st.floats(0, 1, width=32),
    st.integers(0, len(SCHEDULES) - 1),
    st.integers(0, 2**32 - 1),
    st.just(0),
)
PARAMETERS = st.integers(1, HEADER.parameters)
ROOM = carried_bytes(len(GUEST))
STATE = replace(
    kernel.initial(POLICY, rows_class=small_dataset().schema.rows_class, spent={}),
    header=encode_header(POLICY.menus, HEADER),
)


@settings(max_examples=50)
@given(GRAPHS, TRANSFORMS, PARAMETERS)
def test_a_sealed_model_has_one_size(graph: bytes, transforms: Transforms | None, count: int) -> None:
    model = Model(graph, np.ones(count, np.float32), transforms)
    blob = seal_model(model, key=KEY, job=JOB, header=HEADER, room=ROOM)
    empty = Model(b"", np.zeros(0, np.float32))
    assert len(blob) == len(seal_model(empty, key=KEY, job=JOB, header=HEADER, room=ROOM))
    opened = unseal_model(blob, key=KEY, job=JOB, header=HEADER)
    assert (opened.graph, len(opened.parameters), opened.transforms) == (graph, count, transforms)


@settings(max_examples=50)
@given(GRAPHS, TRANSFORMS)
def test_what_goes_to_the_workers_has_one_size(graph: bytes, transforms: Transforms | None) -> None:
    size = graph_message_bytes(HEADER)
    message, carried = pad(graph, size), pack_transforms(transforms, ROOM, state=STATE)
    assert (len(message), len(carried)) == (size, ROOM)
    assert unpad(message) == graph


@given(PLANS)
def test_every_plan_and_none_go_to_the_server_in_one_size(raw: bytes) -> None:
    plan = parse_plan(raw)
    message, nothing = pad(canonical(_of_server(plan)), PLAN_BYTES), pad(b"", PLAN_BYTES)
    assert len(message) == len(nothing) == PLAN_BYTES
    assert (parse_plan_message(message), parse_plan_message(nothing)) == (plan, None)


def test_a_graph_over_the_size_is_refused_by_its_limit() -> None:
    with pytest.raises(TrainingError, match="declare a larger size class"):
        pad(bytes(graph_message_bytes(HEADER) - 7), graph_message_bytes(HEADER))
