"""Which engine is installed. Nobody chooses at start-up: an installation has one, which is measured."""

from __future__ import annotations

import sys
from enum import StrEnum
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class InstallationError(Exception):
    """What is installed does not fit what is asked for, or itself."""


class EngineName(StrEnum):
    """The engines by the names that `chiron up --engine` takes."""

    STOCK = "stock"
    ORT_TRAINING = "ort-training"


DISTRIBUTIONS: Mapping[EngineName, str] = {
    EngineName.STOCK: "onnxruntime",
    EngineName.ORT_TRAINING: "onnxruntime-training-cpu",
}
PYTHONS = ((3, 11), (3, 12))  # of Chiron's, those that onnxruntime-training-cpu 1.19.2 has wheels for


@cache
def installed_engine() -> EngineName:
    """Return the engine whose ONNX Runtime is installed.

    Raises:
        InstallationError: both are, and share one folder, or neither is.
    """
    return _only([name for name, distribution in DISTRIBUTIONS.items() if _is_installed(distribution)])


def check_engine(wanted: EngineName) -> None:
    """Refuse an engine that this installation does not have.

    Raises:
        InstallationError: the text says where the other one is.
    """
    installed = installed_engine()
    if wanted is not installed:
        raise InstallationError(_refusal(wanted, sys.version_info[:2]))


def _only(found: Sequence[EngineName]) -> EngineName:
    if len(found) != 1:
        names = " and ".join(DISTRIBUTIONS.values())
        text = f"of {names}, which share a folder, exactly one must be installed, not {len(found)}"
        raise InstallationError(f"{text}: install one of the locks into a new environment")
    return found[0]


def _refusal(wanted: EngineName, python: tuple[int, int]) -> str:
    if wanted is EngineName.STOCK:
        return "this environment has the engine ort-training: say --engine ort-training, or use .venv"
    text = "the engine ort-training needs onnxruntime-training-cpu, in an environment of its own"
    if python not in PYTHONS:
        known = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        return f"{text} and Python {known}: make test-ort-training PYTHON=python3.12 builds it"
    return f"{text}: make test-ort-training builds it, then use .venv-ort-training/bin/chiron"


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
