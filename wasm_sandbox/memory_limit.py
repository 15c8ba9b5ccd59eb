"""Bounds the memory of this process while hostile input is compiled in it."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DATA = 5  # the field of statm with data and stack in pages: proc_pid_statm(5)


@contextmanager
def limited_memory(more_bytes: int) -> Iterator[None]:
    """Let this process take at most so many bytes beyond what it holds now, and write no core dump.

    What counts is private writable memory (RLIMIT_DATA, getrlimit(2)), not reserved address space. Native
    code that gets no memory ends the process: use it only in one that may be lost.
    """
    held = int(Path("/proc/self/statm").read_bytes().split()[_DATA]) * resource.getpagesize()
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    resource.setrlimit(resource.RLIMIT_DATA, (held + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))
