"""A folder of four IDX files (the MNIST family's form), gzipped or not."""

from __future__ import annotations

import gzip
import math
import struct
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from chiron.guest_api.errors import DatasetError
from chiron.parties.errors import PartyError
from chiron.parties.formats.blocks import Block, Parts, check_row_values, rows_a_block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
IDX_UINT8 = 0x08  # type code of the IDX format: http://yann.lecun.com/exdb/mnist, "THE IDX FILE FORMAT"


def holds_idx(folder: Path) -> bool:
    """Tell whether a folder has any of the four files."""
    return any((folder / f"{name}{end}").is_file() for name in IDX_FILES for end in ("", ".gz"))


def read_idx(folder: Path) -> Parts:
    """Return the parts of a folder of IDX files.

    Raises:
        PartyError: a file is missing.
    """
    paths = [_plain_or_gzipped(folder, name) for name in IDX_FILES]
    return Parts(_part(*paths[:2]), _part(*paths[2:]))


def _part(images: Path, targets: Path) -> Iterator[Block]:
    with _opened(images) as (rows, shape), _opened(targets) as (marks, marks_shape):
        if len(marks_shape) != 1:
            raise DatasetError(f"{targets.name} has shape {marks_shape}: one whole number a row")
        if shape[0] != marks_shape[0]:
            raise DatasetError(f"{shape[0]} rows but {marks_shape[0]} targets: give each row one target")
        one = shape[1:]
        check_row_values(math.prod(one), name=images.name)
        kept = (1, *one) if len(one) == 2 else one  # noqa: PLR2004  images without channels
        at_once = rows_a_block(math.prod(one))
        for first in range(0, shape[0], at_once):
            count = min(at_once, shape[0] - first)
            block = _take(rows, count * math.prod(one), name=images.name)
            yield Block(block.reshape(count, *kept), _take(marks, count, name=targets.name))
        for source, name in ((rows, images.name), (marks, targets.name)):
            if source.read(1):
                raise DatasetError(f"{name} is longer than its head says: fetch it again")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Open a file behind its head; yield it with the shape that the head says."""
    opened: IO[bytes] = gzip.GzipFile(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[assignment]
    with opened as source:
        zero, kind, rank = struct.unpack(">HBB", source.read(4))
        if zero != 0 or kind != IDX_UINT8:
            raise DatasetError(f"{path.name} is no IDX file of unsigned bytes: fetch it again")
        if rank == 0:
            raise DatasetError(f"{path.name} has no dimension: give rows the shape (n, ...)")
        yield source, struct.unpack(f">{rank}I", source.read(4 * rank))


def _take(source: IO[bytes], count: int, *, name: str) -> NDArray[Any]:
    raw = source.read(count)
    if len(raw) != count:
        raise DatasetError(f"{name} is shorter than its head says: it is truncated, fetch it again")
    return np.frombuffer(raw, np.uint8)


def _plain_or_gzipped(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    remedy = (
        "on Debian `apt-get install dataset-fashion-mnist` puts it under /usr/share/datasets/fashion-mnist"
    )
    raise PartyError(f"{name} or {name}.gz is missing there: {remedy}; or run `make data`")
