"""Compiles the benchmark's guests from C."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FLAGS = ("--target=wasm32-freestanding", "-ffreestanding", "-std=c17", "-O3", "-msimd128", "-nostdlib")


def compile_guest(source: str, *, memory_bytes: int, stack_bytes: int = 16_384) -> bytes:
    """Compile one C file with ziglang at -O3 and fixed-width SIMD; memory is of fixed size."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "guest.wasm")
        subprocess.run(  # noqa: S603 - a fixed command
            [
                *(sys.executable, "-m", "ziglang", "cc", *FLAGS),
                *("-Wl,--no-entry", f"-Wl,-z,stack-size={stack_bytes}"),
                *(f"-Wl,--initial-memory={memory_bytes}", f"-Wl,--max-memory={memory_bytes}"),
                *("-o", str(output), str(FOLDER / source)),
            ],
            env=os.environ | {"ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder},
            check=True,
        )
        return output.read_bytes()
