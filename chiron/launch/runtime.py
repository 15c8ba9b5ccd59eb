"""What is measured: the code, the specification and the versions of what they stand on."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from chiron.installation import DISTRIBUTIONS, installed_engine
from chiron.policy.loader import spec_folder
from enclave import measure

if TYPE_CHECKING:
    from enclave import Measurement

PACKAGES = ("chiron", "wasm_sandbox", "enclave", "paramserver")
DEPENDENCIES = ("cbor2", "cryptography", "h11", "numpy", "onnx", "pyOpenSSL", "wasmtime")


def code_root() -> Path:
    """Return the folder that holds the four packages of this running Chiron."""
    return Path(__file__).resolve().parents[2]


@cache
def runtime_measurement() -> Measurement:
    """Return the measurement of this installation: what an honest enclave of the same code would show."""
    roots = [code_root() / name for name in PACKAGES]
    spec = spec_folder()
    if not spec.is_relative_to(roots[0]):
        roots.append(spec)
    engine = DISTRIBUTIONS[installed_engine()]  # which one workers use is a fact of the measurement
    versions = {name: metadata.version(name) for name in (*DEPENDENCIES, engine)}
    return measure(roots, extra=versions | {"python": platform.python_version()})
