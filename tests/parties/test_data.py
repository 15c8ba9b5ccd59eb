"""Reading a user's files: NPZ and IDX, and what is said when they are missing, cut or of another form."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.parties.data import load_dataset, load_rows
from chiron.parties.errors import PartyError
from chiron.parties.formats.idx import IDX_FILES
from chiron.parties.formats.npz import NPZ_KEYS
from chiron.parties.shuffle import HELD_OUT_SHARE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)
TARGETS = np.arange(20) % 4


def npz(path: Path, **arrays: Any) -> Path:  # noqa: ANN401  what numpy takes
    np.savez(path, **arrays)
    return path


def idx(array: NDArray[np.uint8], *, magic: int = 0x0800) -> bytes:
    head = struct.pack(f">I{array.ndim}I", magic | array.ndim, *array.shape)
    return head + array.tobytes()


def idx_contents() -> dict[str, bytes]:
    images = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
    targets = np.array([0, 1, 2, 0, 1, 2], np.uint8)
    contents = (idx(images), idx(targets), idx(images[:3]), idx(targets[:3]))
    return dict(zip(IDX_FILES, contents, strict=True))


def write_idx(folder: Path, contents: dict[str, bytes], *, gzipped: bool = False) -> Path:
    folder.mkdir()
    for name, raw in contents.items():
        (folder / (f"{name}.gz" if gzipped else name)).write_bytes(gzip.compress(raw) if gzipped else raw)
    return folder


def said_of(path: Path, **options: Any) -> str:  # noqa: ANN401
    with pytest.raises(PartyError) as caught:
        load_dataset(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npz_with_a_held_out_part_keeps_its_parts_and_each_rows_target(tmp_path: Path, order: Any) -> None:  # noqa: ANN401
    arrays: dict[str, Any] = {
        "rows": ROWS.copy(order),
        "targets": TARGETS,
        "held_out_rows": ROWS[:7],
        "held_out_targets": TARGETS[:7],
    }
    dataset = load_dataset(npz(tmp_path / "data.npz", **arrays))
    parts = ((dataset.rows, dataset.targets), (dataset.held_out_rows, dataset.held_out_targets))
    for (rows, targets), count in zip(parts, (20, 7), strict=True):
        order_of_keys = np.argsort(rows[:, 0])
        assert np.array_equal(rows[order_of_keys], ROWS[:count])
        assert np.array_equal(targets[order_of_keys], TARGETS[:count])
    assert dataset.schema.classes == 4
    assert not np.array_equal(dataset.rows, ROWS)  # shuffled


def test_without_a_held_out_part_a_fifth_is_held_out_and_the_split_is_the_same_each_time(
    tmp_path: Path,
) -> None:
    path = npz(tmp_path / "data.npz", rows=ROWS, targets=TARGETS)
    one, again = load_dataset(path), load_dataset(path)
    assert len(one.held_out_rows) == 20 // HELD_OUT_SHARE
    assert np.array_equal(one.held_out_rows, again.held_out_rows)
    both = np.concatenate([one.rows, one.held_out_rows])
    assert np.array_equal(both[np.argsort(both[:, 0])], ROWS)


def test_a_compressed_npz_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "data.npz", rows=ROWS, targets=TARGETS)
    assert load_dataset(tmp_path / "data.npz").schema.shape == (3,)


def test_the_number_of_targets_can_be_declared(tmp_path: Path) -> None:
    path = npz(tmp_path / "data.npz", rows=ROWS, targets=TARGETS)
    assert load_dataset(path, classes=9).schema.classes == 9
    assert "from 0 to 1" in said_of(path, classes=2)


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_folder_of_idx_files_is_read_with_a_channel(tmp_path: Path, gzipped: bool) -> None:  # noqa: FBT001
    dataset = load_dataset(write_idx(tmp_path / "idx", idx_contents(), gzipped=gzipped))
    assert dataset.schema.shape == (1, 4, 5)
    assert dataset.schema.dtype == "uint8"
    assert (len(dataset.rows), len(dataset.held_out_rows), dataset.schema.classes) == (6, 3, 3)
    assert [20, 21, 22, 23, 24] in dataset.rows[:, 0, 0].tolist()


def test_idx_rows_that_are_no_images_keep_their_shape(tmp_path: Path) -> None:
    rows, targets = np.zeros((6, 7), np.uint8), np.array([0, 1] * 3, np.uint8)
    contents = dict(zip(IDX_FILES, (idx(rows), idx(targets)) * 2, strict=True))
    assert load_dataset(write_idx(tmp_path / "idx", contents)).schema.shape == (7,)


@pytest.mark.parametrize("name", IDX_FILES)
def test_a_missing_idx_file_says_where_to_get_it(tmp_path: Path, name: str) -> None:
    contents = idx_contents()
    del contents[name]
    said = said_of(write_idx(tmp_path / "idx", contents))
    assert f"{name} or {name}.gz is missing" in said
    assert "apt-get install dataset-fashion-mnist" in said


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    assert "missing" in said_of(tmp_path / "nothing.npz")
    assert "fetch it again" in said_of(tmp_path / "nothing.npz")


IMAGES = idx_contents()[IDX_FILES[0]]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (IMAGES[:-1], "it is truncated"),
        (IMAGES + b"\0", "longer than its head says"),
        (IMAGES[:9], "cannot be read"),
        (IMAGES[:2], "cannot be read"),
        (b"", "cannot be read"),
        (idx(np.zeros((2, 2), np.uint8), magic=0x0D00), "no IDX file of unsigned bytes"),
        (b"PK\x03\x04" + IMAGES, "no IDX file of unsigned bytes"),
        (struct.pack(">I", 0x0800) + b"\0", "no dimension"),
        (struct.pack(">I4I", 0x0804, 6, *[1 << 16] * 3), "the limit is 1 to 1048576"),
    ],
)
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_broken_idx_file_is_refused(tmp_path: Path, raw: bytes, words: str, gzipped: bool) -> None:  # noqa: FBT001
    contents = idx_contents() | {IDX_FILES[0]: raw}
    assert words in said_of(write_idx(tmp_path / "idx", contents, gzipped=gzipped))


@pytest.mark.parametrize("position", [0, 10, 30, -1])
def test_a_gzip_file_that_was_changed_is_refused(tmp_path: Path, position: int) -> None:
    folder = write_idx(tmp_path / "idx", idx_contents(), gzipped=True)
    path = folder / f"{IDX_FILES[0]}.gz"
    raw = bytearray(path.read_bytes())
    raw[position] ^= 0xFF
    path.write_bytes(raw)
    said_of(folder)
    path.write_bytes(raw[: len(raw) // 2])
    said_of(folder)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"rows": ROWS}, "an NPZ holds"),
        ({"x": ROWS, "y": TARGETS}, "an NPZ holds"),
        ({"rows": ROWS, "targets": TARGETS, "more": ROWS}, "an NPZ holds"),
        ({"rows": ROWS, "targets": TARGETS, "held_out_rows": ROWS}, "an NPZ holds"),
        ({"rows": ROWS[:-1], "targets": TARGETS}, "19 rows but 20 targets"),
        ({"rows": ROWS, "targets": TARGETS.astype(float)}, "one whole number a row"),
        ({"rows": ROWS, "targets": TARGETS[:, np.newaxis]}, "one whole number a row"),
        ({"rows": ROWS[:0], "targets": TARGETS[:0]}, "one whole number a row"),
        ({"rows": np.float32(3), "targets": TARGETS}, "no dimension"),
        ({"rows": ROWS, "targets": np.int64(3)}, "one whole number a row"),
        ({"rows": ROWS * np.nan, "targets": TARGETS}, "NaN or infinite"),
        ({"rows": ROWS[:, :0], "targets": TARGETS}, "the limit is 1 to 1048576"),
        ({"rows": ROWS.astype(str), "targets": TARGETS}, "give numbers"),
        ({"rows": ROWS[:3], "targets": TARGETS[:3]}, "at least one row"),
        ({"rows": ROWS, "targets": TARGETS - 1}, "renumber them"),
        ({"rows": ROWS, "targets": TARGETS * 0}, "2 to 256"),
        ({"rows": ROWS, "targets": TARGETS * 1000}, "2 to 256"),
    ],
)
def test_an_npz_of_another_form_is_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    assert words in said_of(npz(tmp_path / "data.npz", **arrays))


@pytest.mark.parametrize(
    "held_out", [np.array([np.inf] * 4), np.array(["a"] * 4), np.array(2), np.array([]), np.array([None])]
)
def test_held_out_targets_of_another_form_are_refused(tmp_path: Path, held_out: NDArray[Any]) -> None:
    arrays = {"rows": ROWS, "targets": TARGETS, "held_out_rows": ROWS[:4], "held_out_targets": held_out}
    said_of(npz(tmp_path / "data.npz", **arrays))


def test_pickled_arrays_are_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("ran").write_text, ("ran",))

    bombs = np.array([[Bomb()] * 3] * 20, dtype=object)
    assert "cannot be read" in said_of(npz(tmp_path / "data.npz", rows=bombs, targets=TARGETS))
    np.save(tmp_path / "rows.npy", bombs, allow_pickle=True)
    with pytest.raises(PartyError, match=r"numpy\.save"):
        load_rows(tmp_path / "rows.npy")
    assert not (tmp_path / "ran").exists()


def test_an_npz_whose_members_are_no_arrays_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        for name in NPZ_KEYS[:2]:
            archive.writestr(name, b"text")
    assert "no arrays" in said_of(tmp_path / "data.npz")


def test_an_npy_file_or_any_other_is_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    for content in (b"", b"rows,targets\n1,2\n", npy(ROWS), b"PK\x03\x04", gzip.compress(b"x")):
        path.write_bytes(content)
        assert "cannot be read" in said_of(path)


def npy(array: NDArray[Any]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


@given(position=st.integers(0, 1 << 20), cut=st.booleans(), compressed=st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_changed_or_cut_npz_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory,
    position: int,
    cut: bool,  # noqa: FBT001
    compressed: bool,  # noqa: FBT001
) -> None:
    path = tmp_path_factory.mktemp("npz") / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, rows=ROWS, targets=TARGETS)
    raw = bytearray(path.read_bytes())
    place = position % len(raw)
    raw[place] ^= 0x55
    path.write_bytes(raw[:place] if cut else raw)
    with suppress(PartyError):  # and nothing else
        assert load_dataset(path).schema.shape


def test_rows_to_query_with_are_scaled_as_in_training(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.array([[0, 255]], np.uint8))
    assert load_rows(path).tolist() == [[0, 1]]
    np.save(path, np.array([[0.5, 7]]))
    assert load_rows(path).tolist() == [[0.5, 7]]


@pytest.mark.parametrize("content", [b"", b"text", npy(ROWS)[:-1], npy(np.array(["a"])), npy(ROWS)[:20]])
def test_a_broken_npy_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.npy"
    path.write_bytes(content)
    with pytest.raises(PartyError, match=r"numpy\.save"):
        load_rows(path)


def test_an_npz_or_a_missing_file_holds_no_rows_to_query_with(tmp_path: Path) -> None:
    for path in (npz(tmp_path / "data.npz", rows=ROWS, targets=TARGETS), tmp_path / "nothing.npy"):
        with pytest.raises(PartyError, match=r"numpy\.save"):
            load_rows(path)
