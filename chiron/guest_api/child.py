"""The process that runs a guest: reads one request, runs one export under the kernel, writes one answer.

Started as `python -m chiron.guest_api.child` by chiron.guest_api.process, which kills it when its slot ends.
It is part of the enclave; it opens no file or socket, and its pipes are the only way in and out.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any, BinaryIO

from chiron.guest_api.calls import HostCalls
from chiron.guest_api.dataset import Schema, decode_dataset
from chiron.guest_api.limits import load_guest
from chiron.guest_api.monitor import Monitor, state_from_dict, state_to_dict
from chiron.guest_api.wire import read_message, write_message
from chiron.policy.loader import parse_policy
from wasm_sandbox import Ending, Guest, GuestRefusedError, limited_memory

COMPILER_BYTES = 1 << 30  # beyond what the process holds already; a compiler that needs more ends the process


def main() -> None:
    """Serve one request from standard input."""
    inbox, outbox = sys.stdin.buffer, sys.stdout.buffer
    loaded = read_message(inbox)
    schema = Schema.from_dict(loaded["schema"])
    plaintext = loaded["dataset"]
    dataset = None if plaintext is None else decode_dataset(plaintext, schema)
    policy = parse_policy(loaded["policy"])
    try:
        with limited_memory(COMPILER_BYTES):
            guest = load_guest(policy, loaded["guest"])
    except GuestRefusedError as error:
        write_message(outbox, {"refused": error.reason, "rule": error.rule})
        return
    with guest:
        write_message(outbox, {"ready": True})
        request = read_message(inbox)
        threading.Thread(target=_end_with_parent, args=(inbox,), daemon=True).start()
        monitor = Monitor(policy, state_from_dict(request["state"]))
        calls = HostCalls(monitor, schema=schema, seed=request["seed"], dataset=dataset)
        write_message(outbox, _run(guest, monitor, calls, export=request["export"]))


def _end_with_parent(inbox: BinaryIO) -> None:
    """End this process when the enclave that started it is gone: its end of the pipe closes then."""
    inbox.read(1)
    os._exit(1)


def _run(guest: Guest, monitor: Monitor, calls: HostCalls, *, export: str) -> dict[str, Any]:
    outcome = guest.run(export, imports=calls.imports())
    if outcome.ending is not Ending.RETURNED or outcome.value != 0:
        monitor.fault()
    return {
        "state": state_to_dict(monitor.state),
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
