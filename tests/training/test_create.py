"""What the lead makes of a guest: a header, a network or a refusal, in the whole slot of create()."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import pytest
from agreed import DATASET, HEADER, JOB, KEY, SIGNER
from deployments import CLASSES, POLICY, VALUES, compiled, content_of, node_of
from graphs import linear
from guests import guest

from chiron.guest_api.chunks import encode_dataset
from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.monitor import Monitor
from chiron.guest_api.plan import PLAN
from chiron.guest_api.process import GuestProcess
from chiron.guest_api.statistics import Statistics
from chiron.policy import kernel
from chiron.policy.header import encode_header
from chiron.policy.loader import spec_folder
from chiron.policy.types import Content
from chiron.training.create import admit_network, configure, create
from chiron.training.inputs import Inputs
from chiron.training.node import Role
from chiron.training.sealed import graph_message_bytes
from chiron.training.submission import Kind, draft_manifest

if TYPE_CHECKING:
    from pathlib import Path

GOOD_PLAN = PLAN.pack(1, 0, 0.1, 0, 0, 0, 0, 0)


def creating(**sinks: bytes) -> Monitor:
    state = kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent={})
    written = {name: Content.of(data) for name, data in sinks.items()}
    number = encode_header(POLICY.menus, HEADER)
    return Monitor(
        POLICY, dataclasses.replace(state, phase="Create", header=number, sinks={**state.sinks, **written})
    )


def inputs_of(binary: bytes) -> Inputs:
    guest_manifest = draft_manifest(Kind.GUEST, JOB, signer=SIGNER, seed=7)
    manifest = draft_manifest(Kind.DATASET, JOB, signer=SIGNER, schema=DATASET.schema)
    statistics, content = Statistics.of(DATASET), content_of(DATASET)
    return Inputs(
        guest_manifest, manifest, DATASET.schema, bytes(8), binary, DATASET, encode_dataset(DATASET), KEY,
        spec_folder(), statistics, content,
    )  # fmt: skip


def test_a_graph_with_a_plan_is_a_network() -> None:
    monitor = creating(graph=linear(VALUES, CLASSES), plan=GOOD_PLAN)
    assert admit_network(monitor, HEADER, DATASET.schema).admitted.parameter_count == VALUES * CLASSES


@pytest.mark.parametrize(
    ("sinks", "words"),
    [
        ({"graph": linear(VALUES, CLASSES)}, "exactly once"),
        ({"graph": linear(VALUES, CLASSES), "plan": GOOD_PLAN * 2}, "exactly once"),
        ({"graph": bytes(graph_message_bytes(HEADER)), "plan": GOOD_PLAN}, "declare more parameters"),
    ],
)
def test_a_missing_plan_or_a_graph_over_its_room_is_refused(sinks: dict[str, bytes], words: str) -> None:
    with pytest.raises(GuestApiError, match=words):
        admit_network(creating(**sinks), HEADER, DATASET.schema)


def test_create_without_a_header_is_an_error(folder: Path) -> None:
    monitor = Monitor(POLICY, kernel.initial(POLICY, rows_class=1, spent={}))
    with pytest.raises(GuestApiError, match="after a header"):
        create(node_of(Role.LEAD, folder), None, monitor, guest=None)  # type: ignore[arg-type]


def test_a_guest_that_the_sandbox_refuses_declares_no_header_and_its_operator_reads_why(folder: Path) -> None:
    monitor = Monitor(POLICY, kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent={}))
    log, _ = configure(node_of(Role.LEAD, folder), inputs_of(b"MZ"), monitor)
    assert log.startswith("refused: ")
    assert monitor.header is None
    assert monitor.state.phase == "Ended"


def test_the_guests_process_ends_at_half_slot_also_where_the_guest_is_done_before(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    ended: list[float] = []
    close = GuestProcess.close

    def noted(process: GuestProcess) -> None:
        close(process)
        ended.append(time.monotonic())

    monkeypatch.setattr(GuestProcess, "close", noted)
    binary, began = guest(), time.monotonic()
    create(node_of(Role.LEAD, folder), inputs_of(binary), creating(), guest=compiled(binary))
    assert ended[-1] - began >= HEADER.create_ms / 2000


@pytest.mark.parametrize("graph", [linear(VALUES, CLASSES), b"no graph", b""])
def test_creating_takes_the_whole_slot_whatever_comes_of_it(folder: Path, graph: bytes) -> None:
    monitor, began = creating(), time.monotonic()
    binary = guest(graph=graph)
    network, _ = create(node_of(Role.LEAD, folder), inputs_of(binary), monitor, guest=compiled(binary))
    assert time.monotonic() - began >= HEADER.create_ms / 1000
    assert (network is not None) == (len(graph) > 100)
