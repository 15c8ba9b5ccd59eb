"""The process in which a guest is compiled: one request on standard input, one answer on standard output.

Started as `python -m wasm_sandbox.compiler BYTES` by `wasm_sandbox.image.precompile`, which kills it when its
time is up. It limits its own memory before it reads the guest, and opens no file or socket.
"""

import json
import resource
import sys

from wasm_sandbox.engine import Profile
from wasm_sandbox.errors import GuestRefusedError
from wasm_sandbox.guest import Rules, load
from wasm_sandbox.types import Limits


def main() -> None:
    """Read a line of JSON and the guest; write a line of JSON, and the machine code unless it is refused."""
    memory_bytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads(sys.stdin.buffer.readline())
    rules = Rules(
        request["granted"], Limits(**request["limits"]), request["exports"], Profile(request["profile"])
    )
    try:
        with load(sys.stdin.buffer.read(), rules) as loaded:
            answer = b"null\n" + loaded.machine_code()
    except GuestRefusedError as error:
        answer = json.dumps({"reason": error.reason, "rule": error.rule}).encode() + b"\n"
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
