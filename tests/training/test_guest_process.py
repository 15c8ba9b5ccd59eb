"""A guest in its process: how each ending comes back, and that time ends it."""

from __future__ import annotations

import io
import os
import signal
import struct
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import cbor2
import pytest
import wasmtime
from deployments import POLICY, POLICY_BYTES, compiled, small_dataset
from guests import LOOP, TRAP, guest

from chiron.guest_api import child
from chiron.guest_api.chunks import encode_dataset
from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.limits import compile_guest
from chiron.guest_api.monitor import Monitor, state_to_dict
from chiron.guest_api.process import OUT_OF_TIME, GuestProcess, GuestReport
from chiron.guest_api.releaser import Releaser
from chiron.guest_api.wire import MAX_MESSAGE_BYTES, read_message, write_message
from chiron.policy import kernel
from wasm_sandbox import GuestRefusedError

DATASET = small_dataset()
SEED = bytes(8)


def monitor_in(phase: str = "Configure") -> Monitor:
    state = kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent={})
    return Monitor(POLICY, replace(state, phase=phase))


def process(binary: bytes, *, data: bool = False) -> GuestProcess:
    encoded = encode_dataset(DATASET) if data else None
    return GuestProcess(compiled(binary), policy=POLICY_BYTES, schema=DATASET.schema, dataset=encoded)


def run(
    binary: bytes, export: str = "configure", *, deadline_ms: int = 20_000
) -> tuple[GuestReport, Monitor]:
    monitor = monitor_in("Configure" if export == "configure" else "Create")
    with process(binary, data=export == "create") as started:
        return started.run(export, monitor, seed=SEED, deadline_ms=deadline_ms), monitor


def returning(value: int) -> bytes:
    text = f"""(module (memory (export "memory") 1 1)
      (func (export "configure") (result i32) (i32.const {value}))
      (func (export "create") (result i32) (i32.const 0)))"""
    return bytes(wasmtime.wat2wasm(text))


def test_a_good_guest_returns_zero_and_its_state_comes_back() -> None:
    report, monitor = run(guest())
    assert report.ok
    assert report.fuel > 0
    assert monitor.state.alive
    assert monitor.state.sinks["header"].number() > 0
    assert monitor.finish_phase()[-1] == kernel.Release(
        "header",
        POLICY.declassifiers["header"].to,
        15,
        monitor.state.header,
    )


@pytest.mark.parametrize("export", ["configure", "create"])
def test_a_guest_that_traps_counts_as_fault_and_its_operator_reads_where(export: str) -> None:
    report, monitor = run(guest(configure=TRAP, create=TRAP), export)
    assert (report.ending, report.ok) == ("trapped", False)
    assert not monitor.state.alive
    assert "unreachable" in report.explain(export)


def test_a_guest_that_does_not_return_zero_counts_as_fault() -> None:
    report, monitor = run(returning(3))
    assert (report.ending, report.value, report.ok) == ("returned", 3, False)
    assert not monitor.state.alive
    assert report.explain("configure") == "configure() returned 3: it must return 0"


def test_a_denied_call_counts_as_fault() -> None:
    report, monitor = run(guest(create="(drop (call $log (i32.const 0) (i32.const 4)))"), "create")
    assert report.ending == "stopped by the host"
    assert not monitor.state.alive
    assert "not granted in this phase" in report.explain("create")


def test_a_report_without_detail_is_a_short_sentence() -> None:
    assert GuestReport("memory", None, 0, "").explain("create") == "create() ended: memory"


def test_a_guest_out_of_time_is_killed_within_its_deadline_and_counts_as_fault() -> None:
    monitor = monitor_in()
    with process(guest(configure=LOOP)) as started:
        began = time.monotonic()
        report = started.run("configure", monitor, seed=SEED, deadline_ms=300)
        took = time.monotonic() - began
        assert started._child.wait(5) == -signal.SIGKILL
    assert (report.ending, report.ok) == (OUT_OF_TIME, False)
    assert 0.29 <= took < 2
    assert not monitor.state.alive
    assert monitor.finish_phase()[-1] == kernel.Release("header", POLICY.declassifiers["header"].to, 15, 0)


@pytest.mark.parametrize(("create", "ending"), [("", "returned"), (TRAP, "trapped"), (LOOP, OUT_OF_TIME)])
def test_whatever_a_guest_does_it_is_killed_at_half_slot_and_nothing_is_let_go_before_the_slots_end(
    create: str, ending: str
) -> None:
    slot_ms = 1000
    with process(guest(create=create), data=True) as started, Releaser() as releaser:
        began = time.monotonic()
        releaser.start(started.pid, slot_ms=slot_ms)
        report = started.run("create", monitor_in("Create"), seed=SEED, deadline_ms=slot_ms)
        releaser.wait_for_half()
        assert time.monotonic() - began >= slot_ms / 2000
        assert started._child.wait(5) == -signal.SIGKILL
        releaser.wait_for_end()
        assert time.monotonic() - began >= slot_ms / 1000
    assert report.ending == ending


def test_a_slot_whose_releaser_is_gone_is_an_error_and_never_ends_as_if_it_were_over() -> None:
    with process(guest()) as started, Releaser() as releaser:
        releaser.start(started.pid, slot_ms=60_000)
        releaser._process.kill()
        releaser._process.wait()
        for wait in (releaser.wait_for_half, releaser.wait_for_end):
            with pytest.raises(GuestApiError, match="releaser"):
                wait()
        with pytest.raises(GuestApiError, match="releaser"):
            releaser.start(started.pid, slot_ms=60_000)


def test_leaving_the_block_ends_the_releaser() -> None:
    with Releaser() as releaser:
        assert releaser._process.poll() is None
    assert releaser._process.wait(5) == -signal.SIGKILL


def test_a_child_that_dies_counts_as_fault() -> None:
    monitor = monitor_in()
    with process(guest(configure=LOOP)) as started:
        killer = threading.Timer(0.2, os.kill, (started._child.pid, signal.SIGKILL))
        killer.start()
        report = started.run("configure", monitor, seed=SEED, deadline_ms=30_000)
        killer.join()
    assert report.ending == OUT_OF_TIME
    assert not monitor.state.alive


def test_a_child_that_is_gone_before_the_run_counts_as_fault() -> None:
    monitor = monitor_in()
    with process(guest()) as started:
        os.kill(started._child.pid, signal.SIGKILL)
        started._child.wait()
        report = started.run("configure", monitor, seed=SEED, deadline_ms=30_000)
    assert report.ending == OUT_OF_TIME
    assert not monitor.state.alive


def test_the_child_is_told_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIRON_SECRET", "of the lead")
    with process(guest()) as started:
        names = {
            entry.split(b"=")[0]
            for entry in Path(f"/proc/{started.pid}/environ").read_bytes().split(b"\0")[:-1]
        }
    assert names <= {b"PATH", b"PYTHONPATH"}


def test_a_guest_that_was_being_set_up_at_its_deadline_is_interrupted_again() -> None:
    heard: list[float] = []
    over = threading.Event()

    def interrupt() -> None:
        heard.append(time.monotonic())
        if len(heard) == 3:
            over.set()

    with child._interrupted_after(SimpleNamespace(interrupt=interrupt), 1):  # type: ignore[arg-type]
        assert over.wait(20), "the first interrupt came too early, and no other"
    count = len(heard)
    time.sleep(2 * child.AGAIN_S)
    assert len(heard) == count, "the next run is not interrupted"


def test_leaving_the_block_ends_the_child() -> None:
    with process(guest()) as started:
        assert started._child.poll() is None
    assert started._child.poll() is not None


@pytest.mark.parametrize("binary", [b"", b"not WebAssembly", bytes(wasmtime.wat2wasm("(module)"))])
def test_a_guest_that_breaks_a_rule_is_refused_before_it_has_a_process(binary: bytes) -> None:
    with pytest.raises(GuestRefusedError):
        compile_guest(POLICY, binary)


def test_machine_code_that_its_enclave_did_not_make_runs_in_no_process() -> None:
    mine, other = compiled(guest()), compiled(guest(create=TRAP))
    for mixed in (
        replace(mine, image=mine.image[:-1] + bytes([mine.image[-1] ^ 1])),
        replace(mine, image=other.image),
        replace(mine, key=other.key),
        replace(mine, binary=other.binary),
    ):
        with pytest.raises(GuestApiError, match="ended before it answered"):
            GuestProcess(mixed, policy=POLICY_BYTES, schema=DATASET.schema)


def test_a_child_that_cannot_load_its_data_is_an_error() -> None:
    with pytest.raises(GuestApiError, match="ended before it answered"):
        GuestProcess(compiled(guest()), policy=POLICY_BYTES, schema=DATASET.schema, dataset=b"no data set")


def loaded(binary: bytes) -> dict[str, object]:
    return {
        "guest": asdict(compiled(binary)),
        "policy": POLICY_BYTES,
        "schema": DATASET.schema.as_dict(),
        "dataset": encode_dataset(DATASET),
        "statistics": None,
    }


class Pipes:
    """Standard input and output of the child's main function, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *messages: dict[str, object]) -> None:
        reading, self._writing = os.pipe()
        self.inbox, self.outbox = os.fdopen(reading, "rb"), io.BytesIO()
        self._feed = os.fdopen(self._writing, "wb")
        monkeypatch.setattr(sys, "stdin", type("In", (), {"buffer": self.inbox}))
        monkeypatch.setattr(sys, "stdout", type("Out", (), {"buffer": self.outbox}))
        self._writer = threading.Thread(target=self._write, args=(messages,))
        self._writer.start()

    def _write(self, messages: tuple[dict[str, object], ...]) -> None:
        for message in messages:
            write_message(self._feed, message)

    def answers(self) -> list[dict[str, object]]:
        self._writer.join()
        self.outbox.seek(0)
        found = []
        while self.outbox.tell() < len(self.outbox.getvalue()):
            found.append(read_message(self.outbox))
        return found

    def hang_up(self) -> None:
        self._feed.close()
        self.inbox.close()


def test_the_child_runs_one_export_and_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr(os, "_exit", leave)
    state = state_to_dict(monitor_in("Create").state)
    pipes = Pipes(monkeypatch, loaded(guest()), {"export": "create", "state": state, "seed": SEED})
    child.main()
    ready, answer = pipes.answers()
    assert ready == {"ready": True, "exports": ["configure", "create"]}
    assert (answer["ending"], answer["value"]) == ("returned", 0)
    assert not ended.is_set()
    pipes._feed.close()
    assert ended.wait(5)
    assert codes == [1]
    pipes.inbox.close()


def test_the_childs_guest_that_traps_comes_back_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_end_with_parent", lambda _: None)
    state = state_to_dict(monitor_in("Create").state)
    pipes = Pipes(monkeypatch, loaded(guest(create=TRAP)), {"export": "create", "state": state, "seed": SEED})
    child.main()
    answer = pipes.answers()[1]
    assert answer["ending"] == "trapped"
    assert isinstance(answer["state"], dict)
    assert answer["state"]["alive"] is False
    pipes.hang_up()


def framed(body: bytes) -> io.BytesIO:
    return io.BytesIO(struct.pack("<Q", len(body)) + body)


def test_a_message_survives_the_pipe() -> None:
    pipe = io.BytesIO()
    write_message(pipe, {"a": b"\0" * 1000})
    pipe.seek(0)
    assert read_message(pipe) == {"a": b"\0" * 1000}


@pytest.mark.parametrize(
    ("pipe", "words"),
    [
        (io.BytesIO(), "ended before"),
        (io.BytesIO(b"\1\2"), "ended before"),
        (io.BytesIO(struct.pack("<Q", 10) + b"short"), "ended before"),
        (io.BytesIO(struct.pack("<Q", MAX_MESSAGE_BYTES + 1)), "over the limit"),
        (framed(cbor2.dumps([1, 2])), "is a map"),
    ],
)
def test_a_broken_message_is_refused(pipe: io.BytesIO, words: str) -> None:
    with pytest.raises(GuestApiError, match=words):
        read_message(pipe)
