"""The process that runs a guest: reads a request, runs one export under the kernel, writes one answer.

`configure` and `create` have a process each; transforms share one, each in a fresh instance.

Started as `python -m chiron.guest_api.child` by chiron.guest_api.process, which kills it when its slot ends.
It is part of the enclave; it opens no file or socket, and its pipes are the only way in and out.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from chiron.guest_api.calls import Flow, HostCalls
from chiron.guest_api.chunks import decode_prefix
from chiron.guest_api.dataset import Schema
from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.limits import CompiledGuest, load_guest
from chiron.guest_api.monitor import Monitor, state_from_dict, state_to_dict
from chiron.guest_api.statistics import Statistics
from chiron.guest_api.wire import read_message, read_rows, write_message, write_rows
from chiron.policy.loader import parse_policy
from wasm_sandbox import ComponentGuest, Ending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chiron.policy.types import Policy
    from wasm_sandbox import Guest

AGAIN_S = 0.02


def main() -> None:
    """Serve the requests on standard input."""
    inbox, outbox = sys.stdin.buffer, sys.stdout.buffer
    loaded = read_message(inbox)
    schema = Schema.from_dict(loaded["schema"])
    plaintext = loaded["dataset"]
    dataset = None if plaintext is None else decode_prefix(plaintext, schema)
    taken = loaded["statistics"]
    statistics = None if taken is None else Statistics.from_dict(taken, schema)
    policy = parse_policy(loaded["policy"])
    with load_guest(policy, CompiledGuest(**loaded["guest"])) as guest:
        write_message(outbox, {"ready": True, "exports": sorted(guest.info.exports)})
        request = read_message(inbox)
        if "row_bytes" in request:
            _serve_transforms(guest, policy, schema, loaded["notes"], request)
            return
        threading.Thread(target=_end_with_parent, args=(inbox,), daemon=True).start()
        monitor = Monitor(policy, state_from_dict(request["state"]))
        calls = HostCalls(
            monitor, schema=schema, seed=request["seed"], dataset=dataset, statistics=statistics
        )
        answer = run_export(guest, monitor, calls, export=request["export"])
        write_message(outbox, answer | {"state": state_to_dict(monitor.state)})


def _serve_transforms(
    guest: Guest | ComponentGuest, policy: Policy, schema: Schema, notes: bytes, request: dict[str, Any]
) -> None:
    """Answer this request and all that follow, until the enclave closes its end."""
    while True:
        monitor = Monitor(policy, state_from_dict(request["state"]))
        flow = Flow(memoryview(read_rows(sys.stdin.buffer)), request["row_bytes"], notes)
        calls = HostCalls(monitor, schema=schema, seed=request["seed"], flow=flow)
        with _interrupted_after(guest, request["deadline_ms"]):
            answer = run_export(guest, monitor, calls, export=request["export"])  # SERVE-7: a fresh instance
        write_message(sys.stdout.buffer, answer)
        write_rows(sys.stdout.buffer, memoryview(monitor.written("transformed")))
        try:
            request = read_message(sys.stdin.buffer)
        except GuestApiError:
            return


@contextmanager
def _interrupted_after(guest: Guest | ComponentGuest, deadline_ms: int) -> Iterator[None]:
    """Interrupt a run that is not over in time, until it is: one that is still being set up hears nothing."""
    over = threading.Event()

    def interrupt() -> None:
        wait_s = deadline_ms / 1000
        while not over.wait(wait_s):
            guest.interrupt()
            wait_s = AGAIN_S

    clock = threading.Thread(target=interrupt)
    clock.start()
    try:
        yield
    finally:
        over.set()
        clock.join()  # an interrupt that comes late must not end the next run


def _end_with_parent(inbox: BinaryIO) -> None:
    """End this process when the enclave that started it is gone: its end of the pipe closes then."""
    inbox.read(1)
    os._exit(1)


def run_export(
    guest: Guest | ComponentGuest, monitor: Monitor, calls: HostCalls, *, export: str
) -> dict[str, Any]:
    """Run one export in a fresh instance; a run that does not return 0 is a fault."""
    if isinstance(guest, ComponentGuest):
        outcome = guest.run(export, imports=calls.component_imports())
    else:
        outcome = guest.run(export, imports=calls.imports())
    if outcome.ending is not Ending.RETURNED or outcome.value != 0:
        monitor.fault()
    return {
        "ending": outcome.ending.value,
        "value": outcome.value,
        "fuel": outcome.fuel_used,
        "detail": outcome.detail,
    }


if __name__ == "__main__":
    # Python could raise KeyboardInterrupt where a host function begins, which nothing can catch: wasmtime
    # would then take what the stack held for a pointer. Ctrl-C ends this process instead.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
