"""The process in which a guest is compiled: one request on standard input, one answer on standard output.

Started as `python -m wasm_sandbox.compiler` by `wasm_sandbox.image.precompile`, which kills it when its time
is up. It limits its own memory before it looks at the guest, and opens no file of the host and no socket.
"""

import json
import sys
from typing import Any

from wasm_sandbox.component import ComponentGuest, ComponentRules, load_component
from wasm_sandbox.engine import Profile
from wasm_sandbox.errors import GuestRefusedError
from wasm_sandbox.guest import Guest, Rules, load
from wasm_sandbox.memory_limit import limited_memory
from wasm_sandbox.types import Limits


def main() -> None:
    """Read a line of JSON and the guest; write a line of JSON, and the machine code unless it is refused."""
    request = json.loads(sys.stdin.buffer.readline())
    limits = Limits(**request["limits"])
    guest = sys.stdin.buffer.read()
    try:
        with limited_memory(limits.compile_bytes), _load(guest, limits, request) as loaded:
            answer = b"null\n" + loaded.machine_code()
    except GuestRefusedError as error:
        answer = json.dumps({"reason": error.reason, "rule": error.rule}).encode() + b"\n"
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


def _load(guest: bytes, limits: Limits, request: dict[str, Any]) -> Guest | ComponentGuest:
    if "profile" not in request:  # components have one alone
        return load_component(guest, ComponentRules(request["granted"], limits, request["exports"]))
    return load(guest, Rules(request["granted"], limits, request["exports"], Profile(request["profile"])))


if __name__ == "__main__":
    main()
