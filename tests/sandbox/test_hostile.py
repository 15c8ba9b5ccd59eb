"""Guests made to exhaust or crash the process that admits, compiles or runs them: each has one ending."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import hostile
import pytest
from deployments import POLICY, POLICY_BYTES, compiled, small_dataset
from guests import guest

from chiron.guest_api import process
from chiron.guest_api.limits import compile_guest
from chiron.guest_api.monitor import Monitor
from chiron.policy import kernel
from wasm_sandbox import GuestRefusedError

REPORT = Path(hostile.__file__)
COMPILING = {"refused (compile-time), True", "refused (compile-memory), True"}
ENDINGS = {
    "a module above its limit": "refused (module-bytes), True",
    "a memory of 4 GiB": "refused (memory), True",
    "50,001 locals": "refused (binary), True",
    "four billion locals": "refused (binary), True",
    "duplicate exports": "refused (binary), True",
    "an export's name of a megabyte": "refused (binary), True",
    "300,000 exports": "refused (sections), True",
    "300,000 types": "refused (sections), True",
    "300,000 functions": "refused (sections), True",
    "300,000 globals": "refused (sections), True",
    "300,000 element segments": "refused (sections), True",
    "300,000 data segments": "refused (sections), True",
    "two million sections": "refused (sections), True",
    "a count of four billion": "refused (sections), True",
    "a start function": "refused (start), True",
    "a function's name of megabytes": "refused (names), True",
    "a huge table": "memory, True",
    "many tables": "memory, True",
    "long names in every frame": "trapped, True",
    "data of megabytes outside memory": "trapped, True",
    "endless recursion": "trapped, True",
    "recursion with large frames": "trapped, True",
    "an endless loop": "out of fuel, True",
    "memory growth": "out of fuel, True",
    "table growth": "out of fuel, True",
    "endless host calls": "stopped by the host, True",
}
BOMBS = ("straight code", "nested loops", "nested ifs", "loops over many locals")
# How much of these a compiler bears may change with its version and with the machine: any one ending will do.
HEAVY = (
    "nested blocks",
    "a jump table of 60,000",
    "a deep expression",
    "50,000 locals",
    "elements of megabytes outside a table",
)
EXPECTED = {
    **{name: {ending} for name, ending in ENDINGS.items()},
    **dict.fromkeys(BOMBS, COMPILING),
    **{name: COMPILING | {"returned, True", "trapped, True"} for name in HEAVY},
}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """Run every hostile guest in one process, which must survive them all."""
    python_path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, str(REPORT)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": python_path},
        stdout=subprocess.PIPE,
        timeout=300,
        check=True,
    )
    *lines, peak = (json.loads(line) for line in done.stdout.splitlines())
    return {**dict(lines), "peak": peak}


def test_every_guest_has_an_expectation() -> None:
    assert set(EXPECTED) == set(hostile.GUESTS)


@pytest.mark.parametrize("name", hostile.GUESTS)
def test_a_hostile_guest_has_one_ending_with_a_short_text(name: str, report: dict[str, Any]) -> None:
    assert report[name] in EXPECTED[name]


def test_no_process_used_more_than_twice_the_memory_it_may(report: dict[str, Any]) -> None:
    assert report["peak"]["compiler"] <= 2 * hostile.LIMITS.compile_bytes
    assert report["peak"]["own"] <= 2 * hostile.LIMITS.compile_bytes


def test_a_compile_bomb_is_killed_when_the_policys_time_is_up() -> None:
    hurried = replace(POLICY, limits=replace(POLICY.limits, compile_ms=700))
    with pytest.raises(GuestRefusedError) as error:
        compile_guest(hurried, hostile.GUESTS["nested ifs"]())
    assert error.value.rule == "compile-time"


def test_an_interrupt_ends_a_guests_process_and_never_reaches_a_host_function() -> None:
    state = kernel.initial(POLICY, rows_class=small_dataset().schema.rows_class, spent={})
    monitor = Monitor(POLICY, state)
    calling = "(loop $again (drop (call $log (i32.const 0) (i32.const 0))) (br $again))"
    with process.GuestProcess(
        compiled(guest(configure=calling)), policy=POLICY_BYTES, schema=small_dataset().schema, dataset=None
    ) as started:
        interrupt = threading.Timer(0.1, started._child.send_signal, [signal.SIGINT])
        interrupt.start()
        report = started.run("configure", monitor, seed=bytes(8), deadline_ms=20_000)
        interrupt.join()
        assert started._child.wait(5) == -signal.SIGINT
    assert not report.ok


def test_memory_is_limited_while_hostile_input_is_compiled_and_not_after() -> None:
    code = """
from wasm_sandbox import limited_memory
with limited_memory(64 << 20):
    kept = bytearray(48 << 20)
    try:
        bytearray(48 << 20)
        print("not limited")
    except MemoryError:
        print("limited")
print(len(bytearray(256 << 20)))
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=True)
    assert done.stdout.split() == [b"limited", str(256 << 20).encode()]
