"""Folders of JPEG and PNG files, one a target (ImageNet's layout), through Pillow."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.guest_api.dataset import MAX_CLASSES, MAX_ROW_VALUES
from chiron.guest_api.errors import DatasetError
from chiron.parties.formats.blocks import Block, Parts, check_row_values, needs, rows_a_block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES = (".jpg", ".jpeg", ".png")
TRAIN_FOLDERS, HELD_OUT_FOLDERS = ("train",), ("val", "test", "held_out")
MAX_PIXELS = 1 << 26  # of one file, before it is made smaller: refused by its head, nothing is decoded
CHANNELS = 3


def read_images(folder: Path, *, size: int | None) -> Parts:
    """Return the parts of `FOLDER/train/TARGET/*.jpg` and `FOLDER/val/TARGET/*.jpg`, or of `FOLDER/TARGET/*`.

    Targets are numbered in the order of their folders' names. Pictures become RGB.

    Args:
        folder: where they lie.
        size: scale the shorter side to so many pixels and cut out the middle square; None: all are alike.

    Raises:
        PartyError: Pillow is not installed.
        DatasetError: there are no folders or too many, or those of the held-out part differ.
    """
    image = needs("PIL.Image", form="reading pictures")
    if size is not None:
        check_row_values(CHANNELS * max(size, 0) ** 2, name="--image-size")
    train = _first(folder, TRAIN_FOLDERS)
    held_out = _first(folder, HELD_OUT_FOLDERS) if train is not None else None
    names = _targets(train or folder)
    if held_out is not None and _targets(held_out) != names:
        raise DatasetError(f"{held_out.name} and {TRAIN_FOLDERS[0]} have other targets: make them alike")
    part = _part(train or folder, names, image, size)
    return Parts(part, None if held_out is None else _part(held_out, names, image, size), classes=len(names))


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _targets(folder: Path) -> list[str]:
    names = sorted(each.name for each in folder.iterdir() if each.is_dir())
    if not 1 <= len(names) <= MAX_CLASSES:
        raise DatasetError(f"{folder.name} has {len(names)} folders: one a target, at most {MAX_CLASSES}")
    return names


def _part(folder: Path, names: list[str], image: Any, size: int | None) -> Iterator[Block]:  # noqa: ANN401
    for target, name in enumerate(names):
        block: list[NDArray[np.uint8]] = []
        for path in sorted(each for each in (folder / name).iterdir() if each.suffix.lower() in SUFFIXES):
            picture = _read(path, image, size)
            if block and picture.shape != block[0].shape:
                raise DatasetError(
                    f"{name}/{path.name} is {_sides(picture)} pixels, others are {_sides(block[0])}: give"
                    " --image-size"
                )
            block.append(picture)
            if len(block) >= rows_a_block(picture.nbytes):
                yield _block(block, target)
                block = []
        if block:
            yield _block(block, target)


def _block(pictures: list[NDArray[np.uint8]], target: int) -> Block:
    return Block(np.stack(pictures), np.full(len(pictures), target, dtype=np.int64))


def _read(path: Path, image: Any, size: int | None) -> NDArray[np.uint8]:  # noqa: ANN401
    try:
        with warnings.catch_warnings(action="error"), image.open(path, formats=("JPEG", "PNG")) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise DatasetError(f"{path.name} has over {MAX_PIXELS} pixels: make it smaller")
            if size is None and CHANNELS * width * height > MAX_ROW_VALUES:
                raise DatasetError(f"{path.name} has over {MAX_ROW_VALUES} values: give --image-size")
            if size is not None:
                opened.draft(
                    "RGB", (2 * size, 2 * size)
                )  # a JPEG is decoded at a fraction where that is enough
            picture = opened.convert("RGB")
    except (image.DecompressionBombError, image.DecompressionBombWarning) as error:
        raise DatasetError(f"{path.name} has over {MAX_PIXELS} pixels: make it smaller") from error
    except (OSError, ValueError, SyntaxError, Warning) as error:
        raise DatasetError(f"{path.name} is no whole JPEG or PNG file: mend or remove it") from error
    if size is not None:
        picture = _square(picture, size, image)
    return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))


def _square(picture: Any, size: int, image: Any) -> Any:  # noqa: ANN401
    """Return the middle square of a picture whose shorter side became `size` pixels."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return picture.resize((size, size), image.Resampling.BILINEAR, box=box)


def _sides(picture: NDArray[np.uint8]) -> str:
    return f"{picture.shape[2]} x {picture.shape[1]}"
