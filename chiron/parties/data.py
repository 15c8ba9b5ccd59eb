"""Reads a user's files, whatever their format, into a data set that is shuffled and split."""

from __future__ import annotations

import struct
import zipfile
import zlib
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from chiron.guest_api.dataset import as_float
from chiron.guest_api.errors import DatasetError
from chiron.parties.errors import PartyError
from chiron.parties.formats.cifar import CIFAR10_TRAIN, CIFAR100_TRAIN, read_cifar10, read_cifar100
from chiron.parties.formats.csv_table import read_csv
from chiron.parties.formats.idx import holds_idx, read_idx
from chiron.parties.formats.images import read_images
from chiron.parties.formats.npz import read_npz
from chiron.parties.formats.parquet import read_parquet
from chiron.parties.shuffle import Shuffled, shuffled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from chiron.guest_api.dataset import Dataset, Schema
    from chiron.parties.formats.blocks import Parts

UNREADABLE = (  # what numpy, gzip, zipfile and csv raise on files that are missing, cut, changed or encrypted
    OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, MemoryError,
)  # fmt: skip


class Format(StrEnum):
    """The forms of files that are read."""

    IDX = "idx"
    NPZ = "npz"
    CSV = "csv"
    PARQUET = "parquet"
    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    IMAGES = "images"


TABLES = (Format.CSV, Format.PARQUET)
MAGIC = {b"PK\x03\x04": Format.NPZ, b"PAR1": Format.PARQUET}
SUFFIXES = {f".{form.value}": form for form in (Format.NPZ, *TABLES)}
TRAIN, HELD_OUT = "train", "held_out"  # names of a table's two files in a folder


@contextmanager
def open_dataset(
    path: Path, *, form: Format | None = None, classes: int | None = None, image_size: int | None = None
) -> Iterator[Shuffled]:
    """Read a data set in blocks and shuffle it through an encrypted temporary file, in constant memory.

    Args:
        path: a file or folder; docs/user.md says what of each format.
        form: the format; by default what the content or, failing that, the name says.
        classes: number of targets; by default what the files say, or one more than the largest.
        image_size: for pictures: the side of the square that each is scaled and cut to, in pixels.

    Raises:
        PartyError: a file is missing, truncated or of the wrong form; names the file and the rule.
    """
    with _named(path):
        parts = _read(path, form or detect(path), image_size)
        opened = shuffled(parts, classes=classes)
    with opened:
        yield opened


def load_dataset(
    path: Path, *, form: Format | None = None, classes: int | None = None, image_size: int | None = None
) -> Dataset:
    """Read a whole data set into memory, in the order and with the split of `open_dataset`.

    Raises:
        PartyError: see `open_dataset`.
    """
    with open_dataset(path, form=form, classes=classes, image_size=image_size) as opened:
        return opened.load()


def schema_of(path: Path) -> Schema:
    """Return a data set's schema.

    Raises:
        PartyError: see `open_dataset`.
    """
    with open_dataset(path) as opened:
        return opened.schema


def detect(path: Path) -> Format:
    """Return a file's or folder's format.

    Raises:
        DatasetError: it is of none that is read.
        OSError: there is no such file.
    """
    if not path.is_dir():
        with path.open("rb") as source:
            found = MAGIC.get(source.read(4)) or SUFFIXES.get(path.suffix.lower())
        if found is None:
            raise DatasetError(f"neither content nor name says its format: {_remedy()}")
        return found
    names = {each.name for each in path.iterdir()}
    rules = (
        (holds_idx(path), Format.IDX),
        (CIFAR10_TRAIN[0] in names, Format.CIFAR10),
        (CIFAR100_TRAIN in names, Format.CIFAR100),
        (f"{TRAIN}.csv" in names, Format.CSV),
        (f"{TRAIN}.parquet" in names, Format.PARQUET),
        (any(each.is_dir() for each in path.iterdir()), Format.IMAGES),
    )
    form = next((form for holds, form in rules if holds), None)
    if form is None:
        raise DatasetError(f"the folder holds no data set that is known: {_remedy()}")
    return form


def _remedy() -> str:
    return f"see docs/user.md, or name one with --format ({', '.join(Format)})"


def _read(path: Path, form: Format, image_size: int | None) -> Parts:
    if image_size is not None and form is not Format.IMAGES:
        raise DatasetError(f"--image-size is for pictures, these are {form.value}: leave it out")
    if form in TABLES:
        train, held_out = _tables(path, form)
        return read_csv(train, held_out) if form is Format.CSV else read_parquet(train, held_out)
    if form is Format.IMAGES:
        return read_images(path, size=image_size)
    readers = {
        Format.IDX: read_idx,
        Format.NPZ: read_npz,
        Format.CIFAR10: read_cifar10,
        Format.CIFAR100: read_cifar100,
    }
    return readers[form](path)


def _tables(path: Path, form: Format) -> tuple[Path, Path | None]:
    """Return a table's file, or the two of a folder."""
    if not path.is_dir():
        return path, None
    held_out = path / f"{HELD_OUT}.{form.value}"
    return path / f"{TRAIN}.{form.value}", held_out if held_out.exists() else None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let every error name the file and nothing of its content."""
    try:
        yield
    except (DatasetError, PartyError) as error:
        raise PartyError(f"{path}: {error}") from error
    except UNREADABLE as error:
        raise PartyError(
            f"{path} cannot be read (missing, truncated or of another format than its name or --format says):"
            " fetch it again"
        ) from error


def load_rows(path: Path) -> NDArray[np.float32]:
    """Read rows to query with from an NPY file; uint8 values are scaled by 1/255, as in training.

    Raises:
        PartyError: the file is missing, truncated or holds no numbers.
    """
    try:
        with path.open("rb") as source:
            return as_float(np.lib.format.read_array(source, allow_pickle=False))
    except (*UNREADABLE, TypeError) as error:
        raise PartyError(f"{path} cannot be read as NPY numbers: write it with numpy.save") from error
