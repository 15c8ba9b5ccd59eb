"""Reads a user's files: NPZ, or a folder of IDX files (the MNIST family's form), gzipped or not."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.guest_api.dataset import Dataset, as_float, make_dataset
from chiron.guest_api.errors import DatasetError
from chiron.parties.errors import PartyError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HELD_OUT_SHARE = 5  # without a held-out part of its own, a fifth of a data set is held out
SPLIT_SEED = 0
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
IDX_UINT8 = 0x08  # type code of the IDX format: http://yann.lecun.com/exdb/mnist, "THE IDX FILE FORMAT"
UNREADABLE = (  # what numpy, gzip and zipfile raise on files that are missing, cut, changed or encrypted
    OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError,
)  # fmt: skip
NPZ_KEYS = ("rows", "targets", "held_out_rows", "held_out_targets")


def load_dataset(path: Path, *, classes: int | None = None) -> Dataset:
    """Read a data set.

    Args:
        path: an NPZ file with `rows` (n, *shape) and `targets` (n,), optionally `held_out_rows` and
            `held_out_targets`; or a folder with the four IDX files, gzipped or not.
        classes: number of targets; by default one more than the largest.

    Raises:
        PartyError: a file is missing, truncated or of the wrong form; names the file and the rule.
    """
    try:
        arrays = _idx_folder(path) if path.is_dir() else _npz(path)
        return _dataset(arrays, classes)
    except (DatasetError, PartyError) as error:
        raise PartyError(f"{path}: {error}") from error
    except UNREADABLE as error:
        raise PartyError(
            f"{path} cannot be read (missing, truncated or not NPZ or IDX): fetch it again"
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


def _dataset(arrays: list[NDArray[Any]], classes: int | None) -> Dataset:
    rows, targets = arrays[:2]
    for part in arrays[1::2]:
        if part.ndim != 1 or part.dtype.kind not in "iu" or len(part) == 0:
            raise DatasetError(
                f"targets have shape {part.shape} and type {part.dtype}: one whole number a row"
            )
    if rows.ndim == 0:
        raise DatasetError("rows have no dimension: give them the shape (n, ...)")
    wanted = int(max(part.max() for part in arrays[1::2])) + 1 if classes is None else classes
    if len(rows) != len(targets):
        raise DatasetError(f"{len(rows)} rows but {len(targets)} targets: give each row one target")
    if len(arrays) == len(NPZ_KEYS):
        return make_dataset(rows, targets, held_out=(arrays[2], arrays[3]), classes=wanted)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(rows))
    held, kept = np.split(order, [len(rows) // HELD_OUT_SHARE])
    return make_dataset(rows[kept], targets[kept], held_out=(rows[held], targets[held]), classes=wanted)


def _npz(path: Path) -> list[NDArray[Any]]:
    with path.open("rb") as source, np.lib.npyio.NpzFile(source, allow_pickle=False) as archive:
        names = set(archive.files)
        if names not in ({*NPZ_KEYS[:2]}, {*NPZ_KEYS}):
            raise DatasetError(
                f"an NPZ holds {list(NPZ_KEYS[:2])} and, if any, {list(NPZ_KEYS[2:])}: name them so"
            )
        arrays = [archive[name] for name in NPZ_KEYS if name in names]
    if not all(isinstance(array, np.ndarray) for array in arrays):  # other members come as bytes
        raise DatasetError("the NPZ's members are no arrays: write it with numpy.savez")
    return arrays


def _idx_folder(folder: Path) -> list[NDArray[Any]]:
    arrays = [_idx(_plain_or_gzipped(folder, name)) for name in IDX_FILES]
    return [array[:, np.newaxis] if array.ndim == 3 else array for array in arrays]  # noqa: PLR2004  images


def _plain_or_gzipped(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    remedy = (
        "on Debian `apt-get install dataset-fashion-mnist` puts it under /usr/share/datasets/fashion-mnist"
    )
    raise PartyError(f"{name} or {name}.gz is missing there: {remedy}; or run `make data`")


def _idx(path: Path) -> NDArray[Any]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    zero, kind, rank = struct.unpack_from(">HBB", raw)
    if zero != 0 or kind != IDX_UINT8:
        raise DatasetError(f"{path.name} is no IDX file of unsigned bytes: fetch it again")
    shape = struct.unpack_from(f">{rank}I", raw, 4)
    start = 4 + 4 * rank
    if len(raw) - start != int(np.prod(shape, dtype=np.int64)):
        raise DatasetError(
            f"{path.name} has {len(raw) - start} bytes, its head says {shape}: it is truncated"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
