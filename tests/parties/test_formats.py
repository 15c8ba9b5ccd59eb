"""Readers of CSV, Parquet, CIFAR and folders of pictures, on small files in these formats."""

from __future__ import annotations

import builtins
import importlib
import io
import struct
import sys
import tracemalloc
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from chiron.parties import shuffle
from chiron.parties.data import Format, load_dataset, open_dataset
from chiron.parties.errors import PartyError
from chiron.parties.formats import blocks, cifar, csv_table, images
from chiron.parties.formats import parquet as parquet_reader

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from chiron.guest_api.dataset import Dataset

CANARY = "31337"  # a value that no message may show


def said_of(path: Path, **options: Any) -> str:  # noqa: ANN401
    with pytest.raises(PartyError) as caught:
        load_dataset(path, **options)
    said = str(caught.value)
    assert str(path) in said
    assert CANARY not in said.replace(str(path), "")
    return said


def everything(dataset: Dataset) -> list[tuple[int, bytes]]:
    """Return targets and rows of both parts, in an order of their own."""
    parts = ((dataset.rows, dataset.targets), (dataset.held_out_rows, dataset.held_out_targets))
    return sorted(
        (int(t), row.tobytes()) for rows, targets in parts for row, t in zip(rows, targets, strict=True)
    )


# CSV


def write_csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


TABLE = "a,target,b\n" + "".join(f"{n}.5,{n % 3},-{n}e-1\n" for n in range(20))


def test_a_csv_file_is_read_by_its_heads_names(tmp_path: Path) -> None:
    dataset = load_dataset(write_csv(tmp_path / "x.csv", TABLE))
    expected = [(n % 3, np.array([n + 0.5, -float(n) / 10], np.float32).tobytes()) for n in range(20)]
    assert everything(dataset) == sorted(expected)
    assert (dataset.schema.shape, dataset.schema.classes, dataset.schema.dtype) == ((2,), 3, "float32")


def test_a_folder_of_csv_files_has_its_own_held_out_part(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", TABLE)
    write_csv(tmp_path / "held_out.csv", "﻿a,target,b\r\n1,0,2\r\n")
    dataset = load_dataset(tmp_path)
    assert (len(dataset.rows), dataset.held_out_rows.tolist()) == (20, [[1, 2]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "one column is named 'target'"),
        ("a,b\n1,2\n", "one column is named 'target'"),
        ("a,target,target\n1,2,3\n", "one column is named 'target'"),
        ("target\n1\n", "the limit is 1 to"),
        ("a,target\n", "at least one row"),
        (f"a,target\n{CANARY},0,5\n", "not the head's 2 columns"),
        (f"a,target\n{CANARY}\n", "not the head's 2 columns"),
        (f"a,target\nx{CANARY},0\n", "a field is no number"),
        (f"a,target\n,{CANARY}\n", "a field is no number"),
        (f"a,target\n1,{CANARY}.5\n", "no whole numbers"),
        ("a,target\n1,nan\n", "no whole numbers"),
        ("a,target\n1,-1\n", "renumber them"),
        ("a,target\nnan,0\n1e39,1\n", "1 values are NaN or infinite"),
        (f'a,target\n"{CANARY}"x,0\n', "badly quoted"),
        ("a,target\n" + "9" * 140_000 + ",0\n", "a field is over"),
    ],
)
def test_a_csv_file_of_another_form_is_refused(tmp_path: Path, text: str, words: str) -> None:
    if words == "1 values are NaN or infinite":
        words = "2 values are NaN or infinite"
    assert words in said_of(write_csv(tmp_path / "x.csv", text))


def test_a_csv_line_without_an_end_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_table, "MAX_LINE", 100)
    assert "a line is over 100 characters" in said_of(write_csv(tmp_path / "x.csv", "a,target\n" + "1," * 60))


def test_a_csv_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,target\n\xff\xfe,0\n")
    assert "cannot be read" in said_of(path)


# Parquet


def table(**columns: Any) -> pa.Table:  # noqa: ANN401
    return pa.table(columns)


def write_parquet(path: Path, content: pa.Table, **options: Any) -> Path:  # noqa: ANN401
    parquet.write_table(content, path, **options)
    return path


def test_a_parquet_file_of_columns_and_lists_is_read(tmp_path: Path) -> None:
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(40), pa.int16()), 2)
    content = table(a=np.arange(20) / 2, target=np.arange(20) % 4, b=fixed)
    path = write_parquet(tmp_path / "x.parquet", content, row_group_size=6)
    expected = [(n % 4, np.array([n / 2, 2 * n, 2 * n + 1], np.float32).tobytes()) for n in range(20)]
    assert everything(load_dataset(path)) == sorted(expected)


def test_parquet_columns_of_bytes_alone_stay_bytes(tmp_path: Path) -> None:
    lists = pa.array([[n, 255] for n in range(20)], pa.list_(pa.uint8()))
    folder = tmp_path / "data"
    folder.mkdir()
    write_parquet(folder / "train.parquet", table(rows=lists, target=np.arange(20) % 2))
    write_parquet(folder / "held_out.parquet", table(rows=lists[:3], target=np.arange(3) % 2))
    dataset = load_dataset(folder)
    assert (dataset.schema.dtype, dataset.schema.shape, len(dataset.held_out_rows)) == ("uint8", (2,), 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (table(a=[1.0]), "one column is named 'target'"),
        (table(target=[1]), "the limit is 1 to"),
        (table(a=[CANARY], target=[0]), "other than numbers"),
        (table(a=[True], target=[0]), "other than numbers"),
        (table(a=[1.0, None], target=[0, 1]), "1 fields are empty"),
        (table(a=[[1.0], [1.0, 31337.0]], target=[0, 1]), "differ in length"),
        (table(a=[[1.0], [None]], target=[0, 1]), "other than numbers"),
        (table(a=[[[1.0]]], target=[0]), "other than numbers"),
        (table(a=[1.0], target=[0.5]), "no whole numbers"),
        (table(a=[1.0], target=[[0, 1]]), "targets are lists"),
        (table(a=[1.0] * 5, target=[0, 31337] * 2 + [0]), "2 to 256"),
        (table(a=np.zeros(0), target=np.zeros(0, int)), "at least one row"),
    ],
)
def test_a_parquet_file_of_another_form_is_refused(tmp_path: Path, content: pa.Table, words: str) -> None:
    assert words in said_of(write_parquet(tmp_path / "x.parquet", content))


def test_a_huge_row_group_is_refused_by_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_reader, "MAX_GROUP_BYTES", 1000)
    path = write_parquet(
        tmp_path / "x.parquet", table(a=np.random.default_rng(0).random(500), target=[0] * 500)
    )
    assert "smaller row_group_size" in said_of(path)


@given(position=st.integers(0, 1 << 20), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_changed_or_cut_parquet_file_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory,
    position: int,
    bit: int,
    cut: bool,  # noqa: FBT001
) -> None:
    path = tmp_path_factory.mktemp("parquet") / "x.parquet"
    write_parquet(path, table(a=np.arange(50) / 2, target=np.arange(50) % 2))
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] ^= 1 << bit
    path.write_bytes(raw[: position % len(raw)] if cut else raw)
    with suppress(PartyError):
        assert load_dataset(path, form=Format.PARQUET).schema


# CIFAR


def records(count: int, marks: int, *, classes: int = 10, seed: int = 0) -> tuple[bytes, NDArray[Any]]:
    random = np.random.default_rng(seed)
    raw = random.integers(0, 256, size=(count, marks + cifar.IMAGE_BYTES), dtype=np.uint8)
    raw[:, marks - 1] = np.arange(count) % classes
    return raw.tobytes(), raw


def write_cifar10(folder: Path, count: int = 4) -> Path:
    folder.mkdir()
    for number, name in enumerate((*cifar.CIFAR10_TRAIN, cifar.CIFAR10_TEST)):
        (folder / name).write_bytes(records(count, 1, seed=number)[0])
    return folder


def test_the_binary_version_of_cifar_10_is_read(tmp_path: Path) -> None:
    dataset = load_dataset(write_cifar10(tmp_path / "cifar"))
    schema = dataset.schema
    assert (schema.shape, schema.classes, schema.dtype) == ((3, 32, 32), 10, "uint8")
    assert (len(dataset.rows), len(dataset.held_out_rows)) == (20, 4)
    raw = records(4, 1, seed=5)[1]
    assert sorted(row.tobytes() for row in dataset.held_out_rows) == sorted(row[1:].tobytes() for row in raw)


def test_of_cifar_100_the_fine_targets_are_read(tmp_path: Path) -> None:
    for name in (cifar.CIFAR100_TRAIN, cifar.CIFAR100_TEST):
        (tmp_path / name).write_bytes(records(6, 2, classes=100)[0])
    dataset = load_dataset(tmp_path)
    assert dataset.schema.classes == 100
    assert sorted(dataset.targets.tolist()) == list(range(6))


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        (cifar.CIFAR10_TRAIN[2], None, "is missing there"),
        (cifar.CIFAR10_TRAIN[0], b"", "not whole records of 3073 bytes"),
        (cifar.CIFAR10_TEST, bytes(3072), "not whole records of 3073 bytes"),
        (cifar.CIFAR10_TEST, bytes(3074), "of the other CIFAR"),
        (cifar.CIFAR10_TEST, bytes([77]) + bytes(3072), "targets must lie from 0 to 9"),
    ],
)
def test_a_broken_cifar_folder_is_refused(tmp_path: Path, name: str, raw: bytes | None, words: str) -> None:
    folder = write_cifar10(tmp_path / "cifar")
    (folder / name).unlink() if raw is None else (folder / name).write_bytes(raw)
    assert words in said_of(folder)


# Pictures


def picture(target: int, *, size: tuple[int, int] = (5, 4)) -> Image.Image:
    return Image.new("RGB", size, (10 * target, 0, 255))


def write_pictures(folder: Path, *, targets: int = 2, count: int = 3, size: tuple[int, int] = (5, 4)) -> Path:
    for target in range(targets):
        (folder / f"n{target:02}").mkdir(parents=True)
        for number in range(count):
            kind = ("png", "jpg", "JPEG")[number % 3]
            picture(target, size=size).save(folder / f"n{target:02}" / f"{number}.{kind}", quality=100)
    return folder


def test_folders_in_imagenets_layout_are_read_channels_first(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train")
    write_pictures(tmp_path / "val", count=1)
    dataset = load_dataset(tmp_path)
    assert (dataset.schema.shape, dataset.schema.dtype, dataset.schema.classes) == ((3, 4, 5), "uint8", 2)
    assert (len(dataset.rows), len(dataset.held_out_rows)) == (6, 2)
    for row, target in zip(dataset.held_out_rows, dataset.held_out_targets, strict=True):
        assert row[:, 2, 2].tolist() == [10 * target, 0, 255]


def test_pictures_without_parts_are_split_and_other_files_are_left(tmp_path: Path) -> None:
    write_pictures(tmp_path, count=5)
    (tmp_path / "n00" / "note.txt").write_text("text")
    assert len(load_dataset(tmp_path).held_out_rows) == 2


@pytest.mark.parametrize("kind", ["L", "P", "RGBA", "CMYK", "1"])
def test_pictures_of_other_modes_become_rgb(tmp_path: Path, kind: str) -> None:
    write_pictures(tmp_path, count=5)
    picture(1).convert(kind).save(tmp_path / "n01" / f"x.{'jpg' if kind == 'CMYK' else 'png'}")
    assert load_dataset(tmp_path).schema.shape == (3, 4, 5)


def test_pictures_of_several_sizes_are_cut_to_the_size_that_is_asked_for(tmp_path: Path) -> None:
    write_pictures(tmp_path, count=5, size=(40, 20))
    picture(1, size=(33, 77)).save(tmp_path / "n01" / "other.jpg")
    assert "give --image-size" in said_of(tmp_path)
    dataset = load_dataset(tmp_path, image_size=8)
    assert dataset.schema.shape == (3, 8, 8)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG whose head says this size and which has no pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(9)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (bomb(9000, 9000), f"over {images.MAX_PIXELS} pixels"),
        (bomb(10_000, 10_000), f"over {images.MAX_PIXELS} pixels"),
        (bomb(60_000, 60_000), f"over {images.MAX_PIXELS} pixels"),
        (bomb(1000, 1000), "give --image-size"),
        (bomb(5, 4), "no whole JPEG or PNG"),
        (b"", "no whole JPEG or PNG"),
        (b"GIF89a" + bytes(100), "no whole JPEG or PNG"),
    ],
)
def test_a_hostile_picture_is_refused(tmp_path: Path, raw: bytes, words: str) -> None:
    write_pictures(tmp_path)
    (tmp_path / "n01" / "x.png").write_bytes(raw)
    assert words in said_of(tmp_path)


def test_a_cut_jpeg_is_refused_by_its_name(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    path = tmp_path / "n00" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    assert "1.jpg is no whole JPEG" in said_of(tmp_path)


def test_held_out_pictures_with_other_targets_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train")
    write_pictures(tmp_path / "val", targets=3)
    assert "make them alike" in said_of(tmp_path)


def test_a_size_that_no_row_has_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    for size in (0, -3, 4000):
        assert "the limit is 1 to" in said_of(tmp_path, image_size=size)


# All of them


def test_a_file_or_folder_of_no_known_format_is_refused(tmp_path: Path) -> None:
    assert "holds no data set" in said_of(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"1234")
    assert "--format" in said_of(tmp_path / "x.bin")


def test_the_content_goes_before_the_name_and_a_forced_format_before_both(tmp_path: Path) -> None:
    content = table(a=np.arange(20) / 2, target=np.arange(20) % 4)
    path = write_parquet(tmp_path / "x.csv", content)
    assert load_dataset(path).schema.shape == (1,)
    assert "cannot be read" in said_of(path, form=Format.CSV)
    path = write_csv(tmp_path / "x.txt", TABLE)
    assert load_dataset(path, form=Format.CSV).schema.shape == (2,)
    for form in Format:
        if form is not Format.CSV:
            said_of(path, form=form)
    assert "--image-size is for pictures" in said_of(path, form=Format.CSV, image_size=8)


@pytest.mark.parametrize(("module", "form"), [("pyarrow", Format.PARQUET), ("PIL", Format.IMAGES)])
def test_without_the_extra_an_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, form: Format
) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    found = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if name.split(".", maxsplit=1)[0] == module:
            raise ImportError(name)
        return found(name, *args, **kwargs)

    def gone(name: str, *_: Any) -> Any:  # noqa: ANN401
        return missing(name)

    monkeypatch.setattr(importlib, "import_module", gone)
    assert "pip install 'chiron-mlaas[data]'" in said_of(tmp_path, form=form)


def as_npz(path: Path, rows: NDArray[Any], targets: NDArray[Any]) -> Path:
    np.savez(path / "x.npz", rows=rows, targets=targets)
    return path / "x.npz"


def as_csv(path: Path, rows: NDArray[Any], targets: NDArray[Any]) -> Path:
    sink = io.StringIO()
    sink.write(",".join([*(f"c{n}" for n in range(rows.shape[1])), "target"]) + "\n")
    for row, target in zip(rows, targets, strict=True):
        sink.write(",".join(map(str, [*row.tolist(), int(target)])) + "\n")
    return write_csv(path / "x.csv", sink.getvalue())


def as_parquet(path: Path, rows: NDArray[Any], targets: NDArray[Any]) -> Path:
    columns = {f"c{n}": rows[:, n] for n in range(rows.shape[1])}
    return write_parquet(path / "x.parquet", table(**columns, target=targets), row_group_size=7)


@given(count=st.integers(10, 60), width=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_the_same_rows_give_the_same_data_set_whatever_the_format(
    tmp_path_factory: pytest.TempPathFactory, count: int, width: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, width)).astype(np.float32)
    targets = random.integers(0, 2, size=count)
    targets[:2] = (0, 1)
    loaded = [load_dataset(write(folder, rows, targets)) for write in (as_npz, as_csv, as_parquet)]
    for other in loaded[1:]:
        assert other.schema == loaded[0].schema
        for name in ("rows", "targets", "held_out_rows", "held_out_targets"):
            assert np.array_equal(getattr(other, name), getattr(loaded[0], name))


# The shuffle


def big(folder: Path, count: int) -> Path:
    rows = np.arange(count, dtype=np.float32)[:, np.newaxis].repeat(4, axis=1)
    return as_npz(folder, rows, np.arange(count) % 2)


def test_every_row_comes_out_once_whatever_fits_memory_and_in_one_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = big(tmp_path, 5000)
    at_once = load_dataset(path)
    monkeypatch.setattr(shuffle, "BUFFER_BYTES", 1000)
    monkeypatch.setattr(shuffle, "BUCKET_BYTES", 300)  # buckets are spread again
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 999)
    spilled = load_dataset(path)
    for name in ("rows", "targets", "held_out_rows", "held_out_targets"):
        assert np.array_equal(getattr(spilled, name), getattr(at_once, name))
    numbers = np.concatenate([at_once.rows, at_once.held_out_rows])[:, 0]
    assert np.array_equal(np.sort(numbers), np.arange(5000))
    assert abs(np.corrcoef(numbers, np.arange(5000))[0, 1]) < 0.06  # 4 standard deviations


def test_what_the_shuffle_writes_is_encrypted_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "BUFFER_BYTES", 1000)
    path = big(tmp_path, 2000)
    with open_dataset(path) as opened:
        spill = opened._spills[0]
        spill._flush()
        spill._file.seek(0)
        raw = spill._file.read()
        assert len(raw) > 2000 * 16
        for number in (100, 1000, 1999):
            assert np.full(4, number, np.float32).tobytes() not in raw
    assert spill._file.closed


def test_the_split_is_a_fifth_and_both_parts_have_all_targets(tmp_path: Path) -> None:
    dataset = load_dataset(big(tmp_path, 1000))
    assert (len(dataset.rows), len(dataset.held_out_rows)) == (800, 200)
    assert 60 < int(dataset.held_out_targets.sum()) < 140


def test_reading_shuffling_and_cutting_take_memory_that_does_not_grow_with_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "BUFFER_BYTES", 4 << 20)
    monkeypatch.setattr(shuffle, "BUCKET_BYTES", 4 << 20)
    path = as_npz(tmp_path, np.zeros((16384, 4096), np.uint8), np.arange(16384) % 2)
    tracemalloc.start()
    with open_dataset(path) as opened:
        chunks = sum(1 for _ in opened.chunks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert chunks > 64
    assert peak < 32 << 20  # bytes, of 64 MiB
