"""A crash writes no memory to disk: neither an enclave's process nor its guest's leaves a core file."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from deployments import POLICY_BYTES
from realjob import CHECKOUT, environment

from enclave import create_simulated_cpu

if TYPE_CHECKING:
    from pathlib import Path

LIMITLESS = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def with_core_files() -> None:
    """Allow core files of any size, as a platform may."""
    resource.setrlimit(resource.RLIMIT_CORE, LIMITLESS)


def started(command: list[str], folder: Path) -> subprocess.Popen[Any]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(CHECKOUT, measured=False),
        cwd=folder,
        preexec_fn=with_core_files,  # noqa: PLW1509  no thread of this process holds a lock here
    )


def leaves_core_file(process: subprocess.Popen[Any]) -> bool:
    """Crash a process and tell whether the kernel wrote its memory out (wait(2), WCOREDUMP)."""
    process.send_signal(signal.SIGSEGV)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    assert os.WTERMSIG(status) == signal.SIGSEGV
    return os.WCOREDUMP(status)


def test_a_crashing_enclave_leaves_no_core_file(tmp_path: Path) -> None:
    create_simulated_cpu(tmp_path / "cpu")
    configuration = {
        "role": "worker",
        "simulated_cpu": str(tmp_path / "cpu"),
        "policy": POLICY_BYTES.decode(),
    }
    process = started([sys.executable, "-m", "chiron.launch.role"], tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(configuration).encode() + b"\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["event"] == "listening"
    assert not leaves_core_file(process)
    assert not list(tmp_path.glob("core*"))


def test_a_process_without_the_limit_leaves_one(tmp_path: Path) -> None:
    """The test above can fail, where this machine writes core files at all."""
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("core files are forbidden here: ulimit -Hc is 0")
    program = "import sys; print(1, flush=True); sys.stdin.read()"
    process = started([sys.executable, "-c", program], tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    if not leaves_core_file(process):
        pytest.skip("the kernel writes no core files here: see core(5), /proc/sys/kernel/core_pattern")
