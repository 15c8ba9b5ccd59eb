"""The operator's transforms in training: what a run is given, what it may give back, and how it fails."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from deployments import CLASSES, POLICY, POLICY_BYTES, VALUES, small_dataset
from graphs import linear
from guests import HEADER as NUMBERS
from guests import LOOP, TRAP
from transforming import GIVE, NOTES, ROWS, SEEN, TAKE, each, scaled, transforming

from chiron.guest_api.dataset import as_float
from chiron.guest_api.transforms import (
    AUGMENT,
    GUEST_PADDED_BYTES,
    INPUT,
    OUTPUT,
    ROOM_BYTES,
    Transformer,
    TransformError,
    Transforms,
    carried_bytes,
)
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header
from chiron.training.batches import Batches, batches_of
from chiron.training.sealed import Model, pack_transforms, seal_model, unpack_transforms, unseal_model
from chiron.training.transformed import Transformed, transformed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chiron.guest_api.dataset import Float32Array

DATASET = small_dataset()
HEADER = Header(*NUMBERS)
ROW = VALUES * 4
STATE = replace(
    kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent={}),
    phase="Train",
    header=encode_header(POLICY.menus, HEADER),
)
FIVE = np.arange(5 * VALUES, dtype=np.float32).reshape(5, VALUES)
KEY, JOB = bytes(32), "0" * 32
DRAW = (
    "(drop (call $random (i32.const 8192) (i32.const 4)))"
    "(f32.store (i32.const 131072) (f32.convert_i32_u (i32.load (i32.const 8192))))"
)
REMEMBER = f"""(f32.store (i32.const {ROWS}) (f32.load (i32.const {SEEN})))
  (f32.store (i32.const {SEEN}) (f32.const 99))"""  # what an earlier run left, and something for the next


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest's transforms in a process of their own."""

    transformer: Transformer

    def __call__(
        self,
        rows: Float32Array = FIVE,
        export: str = INPUT,
        *,
        phase: str = "Train",
        deadline_ms: int = 20_000,
    ) -> Float32Array:
        state = replace(STATE, phase=phase)
        return self.transformer.apply(export, rows, state=state, deadline_ms=deadline_ms, seed=b"seed")


class Guests:
    """Starts guests and ends them."""

    def __init__(self) -> None:
        self.open: list[Transformer] = []

    def __call__(self, *, notes: bytes = b"", **exports: str) -> Guest:
        carried = Transforms(transforming(exports), notes, tuple(exports))
        self.open.append(Transformer(carried, policy=POLICY_BYTES, schema=DATASET.schema))
        return Guest(self.open[-1])


@pytest.fixture
def guests() -> Iterator[Guests]:
    started = Guests()
    yield started
    for transformer in started.open:
        transformer.close()


# One run


def test_rows_go_through_the_guest(guests: Guests) -> None:
    assert np.array_equal(guests(transform_input=scaled(2))(), FIVE * 2)


def test_without_that_transform_rows_stay_as_they_are(guests: Guests) -> None:
    assert guests(transform_input=scaled(2))(FIVE, OUTPUT) is FIVE


def test_take_hands_out_whole_rows_until_there_are_none(guests: Guests) -> None:
    few = f"(local.set $n (call $take (i32.const {ROWS}) (i32.const {2 * ROW + 5})))"
    loop = f"(block $end (loop $more {few} (br_if $end (i32.eqz (local.get $n))) {GIVE} (br $more)))"
    assert np.array_equal(guests(transform_input=loop)(), FIVE)


def test_take_without_room_for_one_row_says_so_and_loses_none(guests: Guests) -> None:
    small = f"(call $take (i32.const {ROWS}) (i32.const {ROW - 1}))"
    code = f"(if (i32.ne {small} (i32.const -2)) (then unreachable)) {TAKE} {GIVE}"
    assert np.array_equal(guests(transform_input=code)(), FIVE)


def test_what_create_kept_is_there_to_read(guests: Guests) -> None:
    read = f"(drop (call $kept (i32.const {NOTES}) (i32.const 64)))"
    factor = f"(f32.mul (f32.load (local.get $i)) (f32.load (i32.const {NOTES})))"
    code = read + TAKE + each(f"(f32.store (local.get $i) {factor})") + GIVE
    assert np.array_equal(guests(notes=struct.pack("<f", 3), transform_input=code)(), FIVE * 3)


def test_each_run_is_a_fresh_instance_with_nothing_of_the_one_before(guests: Guests) -> None:
    guest = guests(transform_input=TAKE + REMEMBER + GIVE)
    first, second = guest(), guest()
    assert first[0, 0] == second[0, 0] == 0


def test_many_rows_go_through_several_runs_each_with_its_own_numbers(guests: Guests) -> None:
    at_once = POLICY.sinks["transformed"].capacity_bytes // ROW
    rows = np.ones((2 * at_once + 3, VALUES), dtype=np.float32)
    given = guests(augment=TAKE + DRAW + GIVE)(rows, AUGMENT)
    assert given.shape == rows.shape
    drawn = {float(value) for value in given[::at_once, 0]}
    assert len(drawn) == 3
    changed = np.flatnonzero(given[:, 0] != 1)
    assert changed.tolist() == [0, at_once, 2 * at_once]


# Faults


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (TRAP, "trapped"),
        (TAKE, "gave 0 bytes for 160"),
        (TAKE + GIVE + GIVE, "gave 320 bytes for 160"),
        (TAKE + each("(f32.store (local.get $i) (f32.const nan))") + GIVE, "NaN or infinity"),
        (TAKE + each("(f32.store (local.get $i) (f32.const inf))") + GIVE, "NaN or infinity"),
        (TAKE + GIVE + "(return (i32.const 7))", "returned 7"),
        (f"(drop (call $take (i32.const {72 << 16}) (i32.const 64)))", "stopped by the host"),
        ("(drop (call $log (i32.const 0) (i32.const 8)))", "not granted"),
        ("(drop (call $graph (i32.const 0) (i32.const 8)))", "not granted"),
        (f"(drop (call $give (i32.const 0) (i32.const {(4 << 20) + 4})))", "sink is full"),
    ],
)
def test_a_run_that_breaks_the_contract_fails(guests: Guests, code: str, words: str) -> None:
    guest = guests(transform_input=code, transform_output=scaled(2))
    with pytest.raises(TransformError, match=words):
        guest()
    assert np.array_equal(guest(FIVE, OUTPUT), FIVE * 2)  # and harms no other


def test_randomness_is_for_training_alone(guests: Guests) -> None:
    guest = guests(transform_input=TAKE + DRAW + GIVE)
    guest(phase="Train")
    for phase in ("Seal", "Serve"):
        with pytest.raises(TransformError, match="not granted"):
            guest(phase=phase)


@pytest.mark.parametrize("phase", ["Configure", "Approve", "Create", "Ended"])
def test_no_rows_are_taken_before_training_or_after_the_end(guests: Guests, phase: str) -> None:
    with pytest.raises(TransformError, match="not granted"):
        guests(transform_input=scaled(1))(phase=phase)


def test_an_endless_guest_is_interrupted_in_time_and_its_process_stays(guests: Guests) -> None:
    guest = guests(transform_input=LOOP, transform_output=scaled(2))
    guest.transformer.wait()
    process = guest.transformer._process
    with pytest.raises(TransformError, match="trapped"):
        guest(deadline_ms=300)
    assert np.array_equal(guest(FIVE, OUTPUT), FIVE * 2)
    assert guest.transformer._process is process


def test_a_process_that_died_is_started_again(guests: Guests) -> None:
    guest = guests(transform_input=scaled(2))
    guest()
    assert guest.transformer._process is not None
    guest.transformer._process._child.kill()
    with pytest.raises(TransformError, match="its process did"):
        guest()
    assert np.array_equal(guest(), FIVE * 2)


def test_a_guest_that_is_refused_fails_every_run() -> None:
    carried = Transforms(b"no guest", b"", (INPUT,))
    with (
        Transformer(carried, policy=POLICY_BYTES, schema=DATASET.schema) as transformer,
        pytest.raises(TransformError, match="could not be started"),
    ):
        Guest(transformer)()


def test_leaving_the_block_ends_the_process() -> None:
    carried = Transforms(transforming({INPUT: scaled(2)}), b"", (INPUT,))
    with Transformer(carried, policy=POLICY_BYTES, schema=DATASET.schema) as transformer:
        transformer.wait()
        assert transformer._process is not None
        child = transformer._process._child
    assert child.poll() is not None


# Batches


def batches() -> Batches:
    return batches_of(DATASET, HEADER, seed=7, index=0)


def test_training_rows_are_transformed_once_and_augmented_at_each_step(guests: Guests) -> None:
    guest = guests(transform_input=scaled(2), augment=TAKE + DRAW + GIVE)
    through = Transformed(batches(), guest.transformer, STATE, deadline_ms=20_000)
    drawn = []
    for step in (0, 1, 0):
        rows, targets = through(step)
        expected, same = batches()(step)
        assert np.array_equal(targets, same)
        assert np.array_equal(rows.ravel()[1:], 2 * as_float(expected).ravel()[1:])
        drawn.append(rows[0, 0])
    assert drawn[0] == drawn[2] != drawn[1]


def test_workers_draw_different_numbers(guests: Guests) -> None:
    guest = guests(augment=TAKE + DRAW + GIVE)
    members = [batches_of(DATASET, HEADER, seed=7, index=index) for index in (0, 1)]
    drawn = [Transformed(m, guest.transformer, STATE, deadline_ms=20_000)(0)[0][0, 0] for m in members]
    assert drawn[0] != drawn[1]


def test_a_guest_without_transforms_leaves_batches_alone() -> None:
    own = batches()
    with transformed(
        own, None, policy=POLICY_BYTES, schema=DATASET.schema, state=None, deadline_ms=1
    ) as prepared:
        assert prepared is own


# What carries them


def test_what_carries_transforms_has_one_size_and_comes_back() -> None:
    guest = transforming({INPUT: scaled(2)})
    full = Transforms(guest, bytes(POLICY.sinks["notes"].capacity_bytes), (INPUT, OUTPUT))
    room = carried_bytes(len(guest))
    messages = [pack_transforms(given, room, state=STATE) for given in (full, None)]
    assert {len(message) for message in messages} == {room}
    assert room == carried_bytes(len(guest) + 1) == GUEST_PADDED_BYTES + ROOM_BYTES
    assert unpack_transforms(messages[0]) == (full, STATE)
    assert unpack_transforms(messages[1]) == (None, None)


def test_a_sealed_model_carries_transforms_hidden_in_one_size() -> None:
    carried = Transforms(b"guest of the operator", b"notes", (INPUT,))
    models = [Model(linear(VALUES, CLASSES), FIVE.ravel(), given) for given in (carried, None)]
    room = carried_bytes(len(carried.guest))
    blobs = [seal_model(model, key=KEY, job=JOB, header=HEADER, room=room) for model in models]
    assert len(blobs[0]) == len(blobs[1])
    assert carried.guest not in blobs[0]
    assert unseal_model(blobs[0], key=KEY, job=JOB, header=HEADER).transforms == carried
    assert unseal_model(blobs[1], key=KEY, job=JOB, header=HEADER).transforms is None
