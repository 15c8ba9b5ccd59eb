"""Parquet, through pyarrow: columns of numbers and of lists of one length; one column is `target`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.guest_api.errors import DatasetError
from chiron.parties.formats.blocks import (
    Block,
    Parts,
    check_row_values,
    needs,
    rows_a_block,
    split_columns,
    whole_targets,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

MAX_GROUP_BYTES = 1 << 30  # pyarrow may hold a column of a whole row group
MAX_COLUMNS = 1 << 16


def read_parquet(train: Path, held_out: Path | None) -> Parts:
    """Return the parts of one or two Parquet files.

    Raises:
        PartyError: pyarrow is not installed.
    """
    arrow, parquet = (needs(name, form="Parquet") for name in ("pyarrow", "pyarrow.parquet"))
    return Parts(_part(train, arrow, parquet), None if held_out is None else _part(held_out, arrow, parquet))


def _part(path: Path, arrow: Any, parquet: Any) -> Iterator[Block]:  # noqa: ANN401  modules without types
    try:
        with parquet.ParquetFile(path, memory_map=False, pre_buffer=False) as source:
            names = _checked_columns(source, path.name)
            for batch in source.iter_batches(batch_size=_rows_at_once(source)):
                yield _block(batch, names, arrow, name=path.name)
    except arrow.ArrowException as error:
        raise DatasetError(f"{path.name} is no whole Parquet file: write it again") from error


def _checked_columns(source: Any, name: str) -> list[str]:  # noqa: ANN401
    metadata = source.metadata
    for index in range(metadata.num_row_groups):
        if metadata.row_group(index).total_byte_size > MAX_GROUP_BYTES:
            raise DatasetError(
                f"{name}: a row group is over {MAX_GROUP_BYTES} bytes: write it with a smaller row_group_size"
            )
    if metadata.num_columns > MAX_COLUMNS:
        raise DatasetError(f"{name}: over {MAX_COLUMNS} columns: put a row's values into one list column")
    names = list(source.schema_arrow.names)
    split_columns(names, file=name)
    return names


def _rows_at_once(source: Any) -> int:  # noqa: ANN401
    """Return the rows of a block, from the mean size of a row in the file's largest group."""
    groups = [source.metadata.row_group(index) for index in range(source.metadata.num_row_groups)]
    return min((rows_a_block(g.total_byte_size // max(1, g.num_rows)) for g in groups), default=1)


def _block(batch: Any, names: list[str], arrow: Any, *, name: str) -> Block:  # noqa: ANN401
    target, _ = split_columns(names, file=name)
    columns = [_column(column, arrow, name=name) for column in batch.columns]
    targets = columns.pop(target)
    if targets.shape[1] != 1:
        raise DatasetError(f"{name}: targets are lists: one whole number a row")
    check_row_values(sum(column.shape[1] for column in columns), name=name)
    bytes_alone = all(column.dtype == np.uint8 for column in columns)  # else bytes are numbers as others
    with np.errstate(over="ignore"):
        columns = columns if bytes_alone else [column.astype(np.float32) for column in columns]
    return Block(np.concatenate(columns, axis=1), whole_targets(targets[:, 0], name=name))


def _column(column: Any, arrow: Any, *, name: str) -> NDArray[Any]:  # noqa: ANN401
    """Return a column as (n, values a row)."""
    if column.null_count:
        raise DatasetError(f"{name}: {column.null_count} fields are empty: fill or drop them")
    values = column
    if arrow.types.is_fixed_size_list(column.type):
        values = column.flatten()
    elif arrow.types.is_list(column.type):
        if len(np.unique(column.value_lengths().to_numpy())) != 1:
            raise DatasetError(f"{name}: lists of one column differ in length: make them alike")
        values = column.flatten()
    if values.null_count or not (arrow.types.is_integer(values.type) or arrow.types.is_floating(values.type)):
        raise DatasetError(f"{name}: a column holds other than numbers: give numbers or lists of them")
    found: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return found.reshape(len(column), -1)
