"""Ahead-of-time images: machine code of one guest, authenticated.

wasmtime runs whatever machine code it is given, so an image is believed only when this runtime made it: it
carries an HMAC-SHA-256 under the caller's key (RFC 2104) of the code together with the guest's digest, the
engine's settings and wasmtime's version. Compiling is neither fuelled nor bounded in memory, so it happens in
a process of its own: a compile bomb ends in a refusal and costs nobody else.
"""

import hashlib
import hmac
import json
import os
import struct
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from typing import Final

from wasmtime import Module, WasmtimeError
from wasmtime.component import Component

from wasm_sandbox.binary import check_binary
from wasm_sandbox.component import ComponentGuest, ComponentRules, make_component
from wasm_sandbox.component_admission import check_component
from wasm_sandbox.engine import Profile, settings_digest
from wasm_sandbox.errors import GuestRefusedError
from wasm_sandbox.guest import Guest, Rules, make
from wasm_sandbox.types import Limits

MAC_BYTES: Final = 32
KEY_BYTES: Final = 32
ENVIRONMENT: Final = ("PATH", "PYTHONPATH")  # all that the compiler is told of this process's environment
LINES: Final = {"WASMTIME_BACKTRACE_DETAILS": "1"}  # for wasmtime, where it compiles and runs
_DOMAIN: Final = b"chiron wasm_sandbox image 1"


def precompile(guest: bytes, *, rules: Rules | ComponentRules, key: bytes, lines: bool = False) -> bytes:
    """Check and compile a guest within `limits.compile_ms` and `limits.compile_bytes`; return its image.

    Args:
        guest: the binary.
        rules: what it is held to; a component has `ComponentRules`.
        key: 32 secret bytes that authenticate the image; the compiler's process never sees them.
        lines: keep what names source files and lines, where the guest brings it.

    Raises:
        GuestRefusedError: it breaks a rule, takes more time or memory than it may, or crashes the compiler.
    """
    request = {"granted": dict(rules.granted), "exports": list(rules.exports), "limits": asdict(rules.limits)}
    if isinstance(rules, ComponentRules):
        check_component(guest, limits=rules.limits)
    else:
        check_binary(guest, module_bytes=rules.limits.module_bytes)
        request["profile"] = rules.profile.value
    head = json.dumps(request).encode() + b"\n"
    answer, complete, code = _compile_apart(head + guest, rules.limits, lines=lines).partition(b"\n")
    if not complete:
        raise GuestRefusedError(
            f"compiling it needs more than {rules.limits.compile_bytes} bytes of memory, or crashes the "
            "compiler: make its functions smaller",
            rule="compile-memory",
        )
    refused = json.loads(answer)
    if refused:
        raise GuestRefusedError(refused["reason"], rule=refused["rule"])
    return make_image(code, guest, rules=rules, key=key)


def _compile_apart(request: bytes, limits: Limits, *, lines: bool) -> bytes:
    """Return what the compiler's process wrote, which is nothing when it died."""
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    environment |= LINES if lines else {}
    try:  # SAND-10
        done = subprocess.run(
            [sys.executable, "-m", "wasm_sandbox.compiler"],
            input=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=limits.compile_ms / 1000,
            check=False,
        )
    except subprocess.TimeoutExpired as error:  # the process is killed by then
        raise GuestRefusedError(
            f"compiling it takes more than {limits.compile_ms} ms: make it smaller", rule="compile-time"
        ) from error
    return done.stdout if done.returncode == 0 else b""


def make_image(code: bytes, guest: bytes, *, rules: Rules | ComponentRules, key: bytes) -> bytes:
    """Return an image: the authentication code, then the machine code.

    Args:
        code: `machine_code()` of this guest under these rules.
        guest: the binary.
        rules: what it was compiled under.
        key: 32 secret bytes, kept by the caller.
    """
    return _mac(code, guest, rules=rules, key=key) + code


def load_image(image: bytes, guest: bytes, *, rules: Rules, key: bytes) -> Guest:
    """Load machine code that `make_image` authenticated, and check the guest's rules again.

    Args:
        image: what `make_image` or `precompile` returned.
        guest: the binary that it was made from.
        rules: what the guest is held to; the engine's settings follow from them.
        key: the key it was made with.

    Raises:
        GuestRefusedError: the image is not authentic for this guest, key, version and settings, or the guest
            breaks a rule.
    """
    guest = bytes(guest)  # what is checked is what is loaded
    code = _authentic(image, guest, rules=rules, key=key)
    try:
        return make(guest, rules, lambda engine: Module.deserialize(engine, code))
    except WasmtimeError as error:
        raise _other_machine() from error


def load_component_image(image: bytes, guest: bytes, *, rules: ComponentRules, key: bytes) -> ComponentGuest:
    """Do the same for a component; arguments and errors as for `load_image`."""
    guest = bytes(guest)
    code = _authentic(image, guest, rules=rules, key=key)
    try:
        return make_component(guest, rules, lambda engine: Component.deserialize(engine, code))
    except WasmtimeError as error:
        raise _other_machine() from error


def _authentic(image: bytes, guest: bytes, *, rules: Rules | ComponentRules, key: bytes) -> bytes:
    """Return an image's machine code, once it is known to be this runtime's."""
    code = bytes(image[MAC_BYTES:])
    expected = _mac(code, guest, rules=rules, key=key)
    if not hmac.compare_digest(
        bytes(image[:MAC_BYTES]), expected
    ):  # SAND-9: before wasmtime sees a byte of it
        raise GuestRefusedError(
            "the image was not made by this runtime for this guest, key and settings: compile it again",
            rule="image",
        )
    return code


def _other_machine() -> GuestRefusedError:
    return GuestRefusedError("it was made for another machine: compile it again", rule="image")


def _mac(code: bytes, guest: bytes, *, rules: Rules | ComponentRules, key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key of images has {KEY_BYTES} bytes, not {len(key)}")
    components = isinstance(rules, ComponentRules)
    profile = Profile.ENCLAVE if isinstance(rules, ComponentRules) else rules.profile
    settings = settings_digest(stack_bytes=rules.limits.stack_bytes, profile=profile, components=components)
    parts = (_DOMAIN, version("wasmtime").encode(), settings, hashlib.sha256(guest).digest(), code)
    mac = hmac.new(key, digestmod="sha256")
    for part in parts:  # lengths keep the parts apart
        mac.update(struct.pack("<Q", len(part)))
        mac.update(part)
    return mac.digest()
