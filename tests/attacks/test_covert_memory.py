"""Attack: a guest that has seen data signals by how much memory, fuel or how many host calls it takes.

Hunt et al., "Ryoan", OSDI 2016, section on covert channels: system calls and resources of a tainted module.
None of them may change what is released, or when.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from deployments import POLICY, compiled, small_dataset
from guests import guest

from chiron.guest_api.calls import HostCalls
from chiron.guest_api.child import run_export
from chiron.guest_api.limits import load_guest
from chiron.guest_api.monitor import Monitor
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header

HEADER = Header(1, 16, 1, 4096, 5, 1000)
DATASET = small_dataset()
CREATE = {
    "quiet": "",
    "grows its memory": "(drop (memory.grow (i32.const 1)))",
    "burns fuel": "(loop $n (local.set $i (i32.add (local.get $i) (i32.const 1)))"
    " (br_if $n (i32.lt_u (local.get $i) (i32.const 1000000))))",
    "calls the host often": "(loop $n (drop (call $batch (i32.const 0) (i32.const 1) (i32.const 1024)"
    " (i32.const 64))) (local.set $i (i32.add (local.get $i) (i32.const 1)))"
    " (br_if $n (i32.lt_u (local.get $i) (i32.const 500))))",
    "calls what is denied": "(drop (call $log (i32.const 0) (i32.const 4)))",
    "traps": "(unreachable)",
    "writes until its sink is full": "(loop $n (drop (call $graph (i32.const 0) (i32.const 65536))) (br $n))",
}


def seen(create: str) -> tuple[object, ...]:
    """Return what everybody sees from `create` to the outcome, the outcome itself pinned."""
    state = kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent={})
    number = encode_header(POLICY.menus, HEADER)
    monitor = Monitor(POLICY, replace(state, phase="Create", ticks_left=1, header=number))
    binary = guest(create=create)
    with load_guest(POLICY, compiled(binary)) as loaded:
        calls = HostCalls(monitor, schema=DATASET.schema, seed=bytes(8), dataset=DATASET)
        run_export(loaded, monitor, calls, export="create")
    told: list[object] = []
    while monitor.state.phase != "Serve":
        told.append((monitor.state.phase, monitor.state.ticks_left))
        for event in monitor.tick({"outcome": 1, "accuracy": 500, "loss": 9}):
            public = isinstance(event, kernel.Frame)
            told.append((event.sink, event.size_bytes) if public else event)  # type: ignore[union-attr]
    return tuple(told)


@pytest.mark.parametrize("how", sorted(set(CREATE) - {"quiet"}))
def test_whatever_it_does_everybody_sees_what_a_quiet_guest_shows(how: str) -> None:
    assert seen(CREATE[how]) == seen(CREATE["quiet"])
