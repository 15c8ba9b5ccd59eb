"""Components in the guest's process: run under the kernel where the switch allows it, refused elsewhere."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from components import ANSWER_AT, component
from deployments import POLICY, WITH_COMPONENTS, WITH_COMPONENTS_BYTES, compiled, small_dataset
from guests import HEADER, escaped

from chiron.guest_api.calls import HostCalls
from chiron.guest_api.chunks import encode_dataset
from chiron.guest_api.limits import compile_guest, load_guest, sandbox_limits
from chiron.guest_api.lowering import MESSAGE_BYTES, component_signatures
from chiron.guest_api.monitor import Monitor
from chiron.guest_api.process import GuestProcess
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header
from wasm_sandbox import ComponentCall, GuestRefusedError

DATASET = small_dataset()
DECLARE = component(
    f"(call $header (i32.const 64) (i32.const 6) (i32.const {ANSWER_AT})) (i32.load (i32.const {ANSWER_AT}))",
    calls={"header": component_signatures()["header"]},
    before=f'(data (i32.const 64) "{escaped(struct.pack("<6I", *HEADER))}")',
)
COMPILED = compiled(DECLARE, WITH_COMPONENTS_BYTES)


def monitor_in(phase: str) -> Monitor:
    state = kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent={})
    return Monitor(POLICY, replace(state, phase=phase))


def calls_in(phase: str) -> tuple[dict[str, ComponentCall], Monitor]:
    monitor = monitor_in(phase)
    calls = HostCalls(monitor, schema=DATASET.schema, seed=b"seed", dataset=DATASET)
    return calls.component_imports(), monitor


def test_a_component_declares_its_header_in_a_process() -> None:
    monitor = monitor_in("Configure")
    with GuestProcess(COMPILED, policy=WITH_COMPONENTS_BYTES, schema=DATASET.schema) as process:
        report = process.run("configure", monitor, seed=bytes(8), deadline_ms=20_000)
    assert report.ok
    declared = int.from_bytes(monitor.written("header"), "little")
    assert declared == encode_header(POLICY.menus, Header(*HEADER))


def test_the_same_component_in_the_wrong_phase_is_stopped() -> None:
    monitor = monitor_in("Create")
    with GuestProcess(
        COMPILED, policy=WITH_COMPONENTS_BYTES, schema=DATASET.schema, dataset=encode_dataset(DATASET)
    ) as process:
        report = process.run("create", monitor, seed=bytes(8), deadline_ms=20_000)
    assert report.ending == "stopped by the host"
    assert not monitor.state.alive


def test_without_the_switch_a_component_is_refused_before_it_is_compiled() -> None:
    with pytest.raises(GuestRefusedError, match="switches components on") as caught:
        compile_guest(POLICY, DECLARE)
    assert caught.value.rule == "components"


def test_the_switch_is_off_unless_it_is_turned_on() -> None:
    assert sandbox_limits(POLICY).component_bytes == 0
    with pytest.raises(GuestRefusedError, match="switches components on"):
        load_guest(POLICY, COMPILED)


def test_the_switch_widens_nothing_for_core_guests() -> None:
    on, off = (sandbox_limits(policy) for policy in (WITH_COMPONENTS, POLICY))
    assert replace(on, component_bytes=0) == off


def test_what_is_larger_than_a_message_has_no_room() -> None:
    imports, _ = calls_in("Create")
    assert imports["random"].handler((MESSAGE_BYTES + 1,)) == -1
    assert isinstance(imports["random"].handler((MESSAGE_BYTES,)), bytes)
    each = 4 * DATASET.schema.row_values
    wanted = MESSAGE_BYTES // each + 1
    rows = replace(DATASET, rows=DATASET.rows[[0] * wanted], targets=DATASET.targets[[0] * wanted])
    calls = HostCalls(monitor_in("Create"), schema=DATASET.schema, seed=b"", dataset=rows).component_imports()
    assert calls["batch"].handler((0, wanted)) == -2
    assert memoryview(calls["batch"].handler((0, wanted - 1))).nbytes == (wanted - 1) * each  # type: ignore[arg-type]


def test_more_targets_than_a_message_holds_have_no_room() -> None:
    most = MESSAGE_BYTES // 4
    many = replace(DATASET, targets=DATASET.targets[np.zeros(most + 1, dtype=int)])
    calls = HostCalls(monitor_in("Create"), schema=DATASET.schema, seed=b"", dataset=many).component_imports()
    assert calls["targets"].handler((0, most + 1)) == -2
    assert not isinstance(calls["targets"].handler((0, most)), int)


def test_a_call_that_is_not_granted_is_denied_before_its_size_is_looked_at() -> None:
    for name, values in (("random", (1 << 30,)), ("batch", (0, 1)), ("graph", (b"",))):
        imports, monitor = calls_in("Approve")
        with pytest.raises(Exception, match="not granted"):
            imports[name].handler(values)
        assert not monitor.state.alive
