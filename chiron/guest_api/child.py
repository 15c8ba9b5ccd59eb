"""The process that runs a guest: reads one request, runs one export under the kernel, writes one answer.

Started as `python -m chiron.guest_api.child` by chiron.guest_api.process, which kills it when its slot ends.
It is part of the enclave; it opens no file or socket, and its pipes are the only way in and out.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, BinaryIO

from chiron.guest_api.calls import HostCalls
from chiron.guest_api.dataset import Dataset, Schema, decode_dataset
from chiron.guest_api.limits import load_guest, sandbox_limits
from chiron.guest_api.monitor import Monitor, state_from_dict, state_to_dict
from chiron.guest_api.wire import read_message, write_message
from chiron.policy.loader import parse_policy
from wasm_sandbox import ComponentGuest, Ending, GuestRefusedError, run


def main() -> None:
    """Serve one request from standard input."""
    inbox, outbox = sys.stdin.buffer, sys.stdout.buffer
    loaded = read_message(inbox)
    schema = Schema.from_dict(loaded["schema"])
    plaintext = loaded["dataset"]
    dataset = None if plaintext is None else decode_dataset(plaintext, schema)
    try:
        component = load_guest(
            parse_policy(loaded["policy"]), loaded["guest"], components=loaded["components"]
        )
    except GuestRefusedError as error:
        write_message(outbox, {"refused": error.reason, "rule": error.rule})
        return
    write_message(outbox, {"ready": True})
    request = read_message(inbox)
    threading.Thread(target=_end_with_parent, args=(inbox,), daemon=True).start()
    write_message(outbox, _run(loaded, schema, dataset, request, component=component))


def _end_with_parent(inbox: BinaryIO) -> None:
    """End this process when the enclave that started it is gone: its end of the pipe closes then."""
    inbox.read(1)
    os._exit(1)


def _run(
    loaded: dict[str, Any],
    schema: Schema,
    dataset: Dataset | None,
    request: dict[str, Any],
    *,
    component: ComponentGuest | None,
) -> dict[str, Any]:
    policy = parse_policy(loaded["policy"])
    monitor = Monitor(policy, state_from_dict(request["state"]))
    calls = HostCalls(monitor, schema=schema, seed=request["seed"], dataset=dataset)
    limits = sandbox_limits(policy, components=component is not None)
    if component is None:
        outcome = run(loaded["guest"], export=request["export"], imports=calls.imports(), limits=limits)
    else:
        outcome = component.run(export=request["export"], imports=calls.component_imports(), limits=limits)
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
    main()
