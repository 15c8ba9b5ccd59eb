"""CIFAR-10 and CIFAR-100 in their binary version.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and the layout that the
data set's page describes: records of one target (CIFAR-100: coarse, then fine) and 3,072 bytes,
channels first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chiron.guest_api.errors import DatasetError
from chiron.parties.formats.blocks import Block, Parts, rows_a_block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHAPE = (3, 32, 32)
IMAGE_BYTES = 3072
CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_TEST = "test_batch.bin"
CIFAR100_TRAIN, CIFAR100_TEST = "train.bin", "test.bin"


def read_cifar10(folder: Path) -> Parts:
    """Return the parts of a folder with CIFAR-10's five training files and its test file.

    Raises:
        DatasetError: a file is missing or has no whole number of records.
    """
    paths = [_checked(folder / name, marks=1) for name in (*CIFAR10_TRAIN, CIFAR10_TEST)]
    return Parts(_part(paths[:-1], marks=1), _part(paths[-1:], marks=1), classes=10)


def read_cifar100(folder: Path) -> Parts:
    """Return the parts of a folder with CIFAR-100's two files; targets are the fine ones.

    Raises:
        DatasetError: a file is missing or has no whole number of records.
    """
    paths = [_checked(folder / name, marks=2) for name in (CIFAR100_TRAIN, CIFAR100_TEST)]
    return Parts(_part(paths[:1], marks=2), _part(paths[1:], marks=2), classes=100)


def _checked(path: Path, *, marks: int) -> Path:
    if not path.is_file():
        raise DatasetError(f"{path.name} is missing there: unpack the binary version of CIFAR whole")
    record, size = marks + IMAGE_BYTES, path.stat().st_size
    if size == 0 or size % record:
        raise DatasetError(
            f"{path.name} is not whole records of {record} bytes: it is truncated or of the other CIFAR"
        )
    return path


def _part(paths: list[Path], *, marks: int) -> Iterator[Block]:
    record = marks + IMAGE_BYTES
    for path in paths:
        with path.open("rb") as source:
            while raw := source.read(rows_a_block(record) * record):
                if len(raw) % record:
                    raise DatasetError(f"{path.name} changed while it was read: read it again")
                records = np.frombuffer(raw, np.uint8).reshape(-1, record)
                yield Block(records[:, marks:].reshape(-1, *SHAPE), records[:, marks - 1])
