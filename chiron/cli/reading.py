"""Options of every command that reads a data set, and the reading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chiron.parties.data import Format, open_dataset

if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager

    from chiron.parties.shuffle import Shuffled


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add --data, --format and --image-size."""
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="file or folder: docs/user.md lists the formats",
    )
    parser.add_argument(
        "--format", type=Format, choices=list(Format), help="of the data (default: what content or name say)"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="scale and cut pictures to N x N (default: as they are)",
    )


def opened_data(
    chosen: argparse.Namespace, *, classes: int | None = None
) -> AbstractContextManager[Shuffled]:
    """Open the data set that the options name; PartyError where it cannot be read."""
    return open_dataset(chosen.data, form=chosen.format, classes=classes, image_size=chosen.image_size)
