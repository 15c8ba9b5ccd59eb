"""NPZ: arrays by name in a ZIP file, read member by member in blocks; nothing is unpickled."""

from __future__ import annotations

import math
import zipfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from chiron.guest_api.errors import DatasetError
from chiron.parties.formats.blocks import Block, Parts, check_row_values, rows_a_block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

NPZ_KEYS = ("rows", "targets", "held_out_rows", "held_out_targets")
MAX_FORTRAN_BYTES = 1 << 30


def read_npz(path: Path) -> Parts:
    """Return the parts of an NPZ file with `rows` and `targets`, and both of the held-out part or none.

    Raises:
        DatasetError: it holds other arrays.
    """
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    if names not in ({*NPZ_KEYS[:2]}, {*NPZ_KEYS}):
        raise DatasetError(
            f"an NPZ holds {list(NPZ_KEYS[:2])} and, if any, {list(NPZ_KEYS[2:])}: name them so"
        )
    held_out = _part(path, *NPZ_KEYS[2:]) if NPZ_KEYS[2] in names else None
    return Parts(_part(path, *NPZ_KEYS[:2]), held_out)


def _part(path: Path, rows_name: str, targets_name: str) -> Iterator[Block]:
    with (
        zipfile.ZipFile(path) as archive,
        _member(archive, targets_name) as targets,
        _member(archive, rows_name) as rows,
    ):
        if len(targets.shape) != 1 or targets.dtype.kind not in "iu" or targets.shape[0] == 0:
            raise DatasetError(
                f"targets have shape {targets.shape} and type {targets.dtype}: one whole number a row"
            )
        if not rows.shape:
            raise DatasetError("rows have no dimension: give them the shape (n, ...)")
        if rows.shape[0] != targets.shape[0]:
            raise DatasetError(
                f"{rows.shape[0]} rows but {targets.shape[0]} targets: give each row one target"
            )
        check_row_values(math.prod(rows.shape[1:]), name=rows_name)
        at_once = rows_a_block(math.prod(rows.shape[1:]) * rows.dtype.itemsize)
        for first in range(0, rows.shape[0], at_once):
            count = min(at_once, rows.shape[0] - first)
            yield Block(rows.take(count), targets.take(count))


class _Member:
    """One array of the archive, from its first row on."""

    def __init__(self, source: IO[bytes], name: str) -> None:
        version = np.lib.format.read_magic(source)
        read_head = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        self.shape, fortran, self.dtype = read_head(source)
        self._source, self._name = source, name
        self._whole: NDArray[Any] | None = None
        if self.dtype.hasobject:
            raise ValueError("an array of Python objects is refused")
        if fortran and len(self.shape) > 1:
            self._whole = self._read_whole()

    def take(self, count: int) -> NDArray[Any]:
        """Return the next rows."""
        if self._whole is not None:
            taken, self._whole = self._whole[:count], self._whole[count:]
            return taken
        one = self.shape[1:]
        return np.frombuffer(self._read(count * math.prod(one)), self.dtype).reshape(count, *one)

    def _read(self, values: int) -> bytes:
        raw = self._source.read(values * self.dtype.itemsize)
        if len(raw) != values * self.dtype.itemsize:
            raise DatasetError(f"{self._name} is shorter than its head says: it is truncated, write it again")
        return raw

    def _read_whole(self) -> NDArray[Any]:
        """Return an array that is stored column by column, so that its rows cannot be read in turn."""
        values = math.prod(self.shape)
        if values * self.dtype.itemsize > MAX_FORTRAN_BYTES:
            raise DatasetError(
                f"{self._name} is stored column by column and over {MAX_FORTRAN_BYTES} bytes:"
                " write it with numpy.ascontiguousarray()"
            )
        return np.frombuffer(self._read(values), self.dtype).reshape(self.shape, order="F")


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[_Member]:
    if f"{name}.npy" not in archive.namelist():
        raise DatasetError("the NPZ's members are no arrays: write it with numpy.savez")
    with archive.open(f"{name}.npy") as source:
        yield _Member(source, name)
