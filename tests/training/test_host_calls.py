"""The host calls against a guest's memory: what each gives, refuses, and when it ends the guest."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from deployments import POLICY
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.guest_api.calls import MAX_RANDOM_BYTES, HostCalls
from chiron.guest_api.dataset import Dataset, as_float, make_dataset
from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.lowering import CALL_PARAMETERS, NO_ROOM, REFUSED
from chiron.guest_api.monitor import Monitor, state_from_dict, state_to_dict
from chiron.guest_api.plan import PLAN, Plan, parse_plan
from chiron.guest_api.statistics import Statistics
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header
from chiron.policy.types import Content, Label, Principal
from wasm_sandbox import GuestAddressError, GuestMemory, StopGuest

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = Header(2, 16, 1, 4096, 5, 1000)
MEMORY_BYTES = 1 << 16
USER, OPERATOR = Principal("user"), Principal("operator")


def dataset(dtype: str = "float32") -> Dataset:
    random = np.random.default_rng(3)
    rows = random.integers(0, 256, size=(21, 2, 3)).astype(dtype)
    held_out = random.integers(0, 256, size=(5, 2, 3)).astype(dtype)
    return make_dataset(rows, np.arange(21) % 4, held_out=(held_out, np.arange(5) % 4), classes=5)


class Run:
    """One run of a guest in a phase, with a memory to look into."""

    def __init__(self, phase: str, data: Dataset | None, *, seed: bytes = b"seed") -> None:
        schema = dataset().schema if data is None else data.schema
        first = kernel.initial(POLICY, rows_class=schema.rows_class, spent={})
        state = replace(first, phase=phase, header=encode_header(POLICY.menus, HEADER))
        self.monitor = Monitor(POLICY, state)
        self.raw = bytearray(MEMORY_BYTES)
        self.memory = GuestMemory(memoryview(self.raw), output_bytes=1 << 26)
        self.calls = HostCalls(self.monitor, schema=schema, seed=seed, dataset=data).imports()

    def __call__(self, name: str, *arguments: int) -> int:
        return self.calls[name].handler(self.memory, arguments)

    def put(self, data: bytes) -> int:
        """Store bytes at address 8 and return their count."""
        self.raw[8 : 8 + len(data)] = data
        return len(data)

    def floats(self, count: int) -> list[float]:
        return [float(value) for value in np.frombuffer(self.raw, "<f4", count)]

    def sink(self, name: str) -> bytes:
        return self.monitor.written(name)


def configuring() -> Run:
    return Run("Configure", None)


def creating(dtype: str = "float32") -> Run:
    return Run("Create", dataset(dtype))


def test_every_call_of_the_policy_has_a_handler_with_its_parameters() -> None:
    calls = configuring().calls
    assert set(calls) == set(POLICY.calls) == set(CALL_PARAMETERS)
    assert {name: call.parameters for name, call in calls.items()} == dict(CALL_PARAMETERS)


@pytest.mark.parametrize("make", [configuring, creating])
def test_schema_gives_public_counts_in_both_phases(make: Callable[[], Run]) -> None:
    run = make()
    assert run("schema", 0, 32) == 32
    assert struct.unpack_from("<8I", run.raw) == (1, 22, 2, 2, 3, 1, 5, 0)


def test_schema_has_no_room_in_less_than_32_bytes() -> None:
    run = configuring()
    assert run("schema", 0, 31) == NO_ROOM
    assert not any(run.raw)


def test_header_writes_its_number_once_and_a_second_one_ends_the_guest() -> None:
    run = configuring()
    size = run.put(struct.pack("<6I", *HEADER.as_dict().values()))
    assert run("header", 8, size) == 0
    assert int.from_bytes(run.sink("header"), "little") == encode_header(POLICY.menus, HEADER)
    with pytest.raises(StopGuest):
        run("header", 8, size)
    assert not run.monitor.state.alive


@pytest.mark.parametrize("size", [0, 23, 25])
def test_header_of_another_size_is_refused(size: int) -> None:
    assert configuring()("header", 8, size) == REFUSED


def test_header_off_its_menu_is_refused_and_the_guest_may_choose_again() -> None:
    run = configuring()
    assert run("header", 8, run.put(struct.pack("<6I", 4, 16, 1, 4096, 5, 1000))) == REFUSED
    assert run("header", 8, run.put(struct.pack("<6I", *HEADER.as_dict().values()))) == 0


def test_log_appends_until_its_sink_is_full_and_then_ends_the_guest() -> None:
    run = configuring()
    assert run("log", 8, run.put(b"hello ")) == 0
    assert run("log", 8, run.put(b"world")) == 0
    assert run.sink("operator_log") == b"hello world"
    with pytest.raises(StopGuest):
        run("log", 0, POLICY.sinks["operator_log"].capacity_bytes)
    assert not run.monitor.state.alive


@pytest.mark.parametrize("name", ["graph", "plan"])
def test_graph_and_plan_append_to_their_sinks(name: str) -> None:
    run = creating()
    run(name, 8, run.put(b"first "))
    run(name, 8, run.put(b"second"))
    assert run.sink(name) == b"first second"


def test_plan_beyond_its_sink_ends_the_guest() -> None:
    run = creating()
    with pytest.raises(StopGuest):
        run("plan", 0, 65)


DENIED = {
    "Configure": ("statistics", "batch", "targets", "graph", "plan", "keep", "kept", "take", "give"),
    "Create": ("log", "header", "kept", "take", "give"),
    **dict.fromkeys(("Approve", "Ended"), tuple(CALL_PARAMETERS)),
    "Train": tuple(CALL_PARAMETERS.keys() - {"schema", "random", "kept", "take", "give"}),
    **dict.fromkeys(("Seal", "Serve"), tuple(CALL_PARAMETERS.keys() - {"schema", "kept", "take", "give"})),
}


@pytest.mark.parametrize(("phase", "name"), [(p, n) for p, names in DENIED.items() for n in sorted(names)])
def test_a_call_in_the_wrong_phase_ends_the_guest_and_changes_nothing(phase: str, name: str) -> None:
    run = Run(phase, dataset())
    size = run.put(struct.pack("<6I", *HEADER.as_dict().values()))
    before = bytes(run.raw)
    arguments = (8, size) if CALL_PARAMETERS[name] == 2 else (0, 1, 8, 4096)
    with pytest.raises(StopGuest):
        run(name, *arguments)
    assert run.raw == before
    assert not run.monitor.state.alive
    assert not any(content.size for content in run.monitor.state.sinks.values())


@pytest.mark.parametrize("name", ["statistics", "batch", "targets"])
def test_data_calls_end_a_guest_that_runs_without_data(name: str) -> None:
    run = Run("Create", None)
    with pytest.raises(StopGuest, match="no data set"):
        run(name, 0, 1, 8, 4096)


@pytest.mark.parametrize("name", ["statistics", "batch", "targets"])
def test_reading_data_taints_the_guest(name: str) -> None:
    run = creating()
    run(name, 0, 1, 8, 4096)
    assert USER in run.monitor.state.label.owners


def test_reading_the_schema_taints_nothing() -> None:
    run = creating()
    run("schema", 0, 32)
    assert run.monitor.state.label == Label(frozenset({OPERATOR}))


def test_a_tainted_guest_cannot_write_down_even_where_a_phase_grants_it() -> None:
    run = Run("Configure", dataset())
    label = Label(frozenset({OPERATOR, USER}))
    run.monitor.state = replace(run.monitor.state, label=label)
    with pytest.raises(StopGuest):
        run("log", 8, run.put(b"secret"))
    assert run.sink("operator_log") == b""


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_batch_gives_the_rows_asked_for_as_floats(dtype: str) -> None:
    run = creating(dtype)
    assert run("batch", 4, 3, 0, 1000) == 3 * 6 * 4
    assert run.floats(18) == as_float(dataset(dtype).rows[4:7]).ravel().tolist()
    assert not any(run.raw[72:])


def test_targets_gives_int32() -> None:
    run = creating()
    assert run("targets", 2, 5, 0, 20) == 20
    assert np.frombuffer(run.raw, "<i4", 5).tolist() == [2, 3, 0, 1, 2]


@pytest.mark.parametrize("name", ["batch", "targets"])
@pytest.mark.parametrize(("first", "count"), [(21, 1), (0, 22), (4294967295, 1), (1, 4294967295)])
def test_rows_beyond_the_training_rows_are_refused(name: str, first: int, count: int) -> None:
    run = creating()
    assert run(name, first, count, 0, 4294967295) == REFUSED
    assert not any(run.raw)


@pytest.mark.parametrize(("name", "needed"), [("batch", 2 * 24), ("targets", 2 * 4)])
def test_rows_that_do_not_fit_their_room_are_not_written(name: str, needed: int) -> None:
    run = creating()
    assert run(name, 0, 2, 0, needed - 1) == NO_ROOM
    assert not any(run.raw)
    assert run(name, 0, 2, 0, needed) == needed


@pytest.mark.parametrize("name", ["batch", "targets"])
def test_no_rows_are_no_bytes(name: str) -> None:
    assert creating()(name, 21, 0, 0, 0) == 0


def test_an_address_outside_the_memory_ends_the_guest() -> None:
    for name, arguments in (("batch", (0, 1, MEMORY_BYTES - 1, 24)), ("graph", (MEMORY_BYTES - 1, 2))):
        with pytest.raises(GuestAddressError):
            creating()(name, *arguments)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_statistics_of_all_values_are_numpys(dtype: str) -> None:
    run, values = creating(dtype), as_float(dataset(dtype).rows).astype(np.float64)
    assert run("statistics", 0, 0, 0, 16) == 16
    assert run.floats(4) == pytest.approx([values.mean(), values.std(), values.min(), values.max()], rel=1e-6)


@pytest.mark.parametrize("column", range(6))
def test_statistics_of_a_column_are_numpys(column: int) -> None:
    run, values = creating("uint8"), as_float(dataset("uint8").rows).reshape(21, 6)[:, column]
    assert run("statistics", 1, column, 0, 16) == 16
    assert run.floats(4) == pytest.approx([values.mean(), values.std(), values.min(), values.max()], rel=1e-6)


def test_statistics_count_rows_a_target_and_rows_a_part() -> None:
    run = creating()
    assert run("statistics", 2, 0, 0, 20) == 20
    assert run.floats(5) == [6, 5, 5, 5, 0]
    assert run("statistics", 3, 0, 0, 8) == 8
    assert run.floats(2) == [21, 5]


def test_of_a_data_set_that_is_not_all_there_statistics_are_of_all_and_rows_of_the_rest_are_refused() -> None:
    whole, run = dataset(), creating()
    first = replace(whole, rows=whole.rows[:8], targets=whole.targets[:8])
    calls = HostCalls(
        run.monitor, schema=whole.schema, seed=b"", dataset=first, statistics=Statistics.of(whole)
    )
    run.calls = calls.imports()
    assert run("statistics", 3, 0, 0, 8) == 8
    assert run.floats(2) == [21, 5]
    assert run("statistics", 4, 0, 0, 4) == 4
    assert run.floats(1) == [8]
    assert run("statistics", 0, 0, 0, 16) == 16
    assert run.floats(1)[0] == pytest.approx(whole.rows.mean())
    assert run("targets", 0, 8, 0, 4096) == 32
    assert run("batch", 0, 9, 0, 4096) == run("targets", 8, 1, 0, 4096) == REFUSED


@given(cuts=st.sets(st.integers(1, 20), max_size=6), dtype=st.sampled_from(["uint8", "float32"]))
def test_statistics_are_the_same_in_one_pass_over_parts(cuts: set[int], dtype: str) -> None:
    data = dataset(dtype)
    at_once, in_parts = Statistics.of(data), Statistics.empty(data.schema)
    for rows, targets in zip(
        np.split(data.rows, sorted(cuts)), np.split(data.targets, sorted(cuts)), strict=True
    ):
        in_parts.add(rows, targets)
    flat = as_float(data.rows).reshape(21, -1).astype(np.float64)
    for kind, index in ((0, 0), (1, 2), (2, 0)):
        one, other = at_once.answer(kind, index), in_parts.answer(kind, index)
        assert one is not None
        assert other is not None
        assert one == pytest.approx(other, rel=1e-6)
    column = at_once.answer(1, 2)
    assert column is not None
    assert column == pytest.approx([flat[:, 2].mean(), flat[:, 2].std(), flat[:, 2].min(), flat[:, 2].max()])


@pytest.mark.parametrize(("kind", "index"), [(1, 6), (1, 4294967295), (5, 0), (4294967295, 0)])
def test_statistics_that_do_not_exist_are_refused(kind: int, index: int) -> None:
    assert creating()("statistics", kind, index, 0, 4096) == REFUSED


def test_statistics_without_room_are_not_written() -> None:
    run = creating()
    assert run("statistics", 0, 0, 0, 15) == NO_ROOM
    assert not any(run.raw)


def random_bytes(run: Run, count: int = 32) -> bytes:
    assert run("random", 0, count) == 0
    return bytes(run.raw[:count])


def test_random_is_the_same_for_the_same_seed_phase_and_call() -> None:
    assert random_bytes(configuring()) == random_bytes(configuring())


def test_random_differs_between_calls_phases_and_seeds() -> None:
    run = configuring()
    drawn = [random_bytes(run), random_bytes(run), random_bytes(creating())]
    drawn.append(random_bytes(Run("Configure", None, seed=b"other")))
    assert len(set(drawn)) == 4


def test_too_much_random_is_refused() -> None:
    run = configuring()
    assert run("random", 0, MAX_RANDOM_BYTES + 1) == REFUSED
    assert not any(run.raw)


def plan(**change: float) -> bytes:
    fields: dict[str, float] = {
        "version": 1, "optimiser": 0, "rate": 0.1, "momentum": 0.9, "decay": 0.0, "schedule": 0, "warmup": 3,
        "reserved": 0,
    } | change  # fmt: skip
    return PLAN.pack(*fields.values())


def test_a_plan_is_parsed_to_names() -> None:
    assert parse_plan(plan(optimiser=1, schedule=1)) == Plan(
        "adamw", float(np.float32(0.1)), float(np.float32(0.9)), 0, "cosine", 3
    )


@pytest.mark.parametrize("raw", [b"", plan()[:-1], plan() + b"\0", plan() * 2])
def test_a_plan_of_another_size_is_refused(raw: bytes) -> None:
    with pytest.raises(GuestApiError, match="exactly once"):
        parse_plan(raw)


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("version", 0, "version"),
        ("version", 2, "exactly once"),
        ("version", 3, "version"),
        ("reserved", 1, "version"),
        ("optimiser", 2, "optimiser"),
        ("schedule", 2, "schedule"),
        *[("rate", value, "learning_rate") for value in (0.0, -0.0, -1.0, 10.01, np.nan, np.inf, -np.inf)],
        *[("momentum", value, "momentum") for value in (-0.01, 1.0, np.nan, np.inf)],
        *[("decay", value, "weight_decay") for value in (-0.01, 1.01, np.nan, np.inf)],
    ],
)
def test_a_plan_out_of_range_is_refused_by_the_name_of_its_field(field: str, value: float, name: str) -> None:
    with pytest.raises(GuestApiError, match=name):
        parse_plan(plan(**{field: value}))


@given(st.binary(min_size=PLAN.size, max_size=PLAN.size))
def test_any_bytes_are_a_plan_in_range_or_refused(raw: bytes) -> None:
    try:
        parsed = parse_plan(raw)
    except GuestApiError:
        return
    assert 0 < parsed.learning_rate <= 10


STATES = st.builds(
    kernel.State,
    phase=st.sampled_from(sorted(POLICY.phases)),
    ticks_left=st.integers(1, 1000),
    label=st.frozensets(st.sampled_from([USER, OPERATOR])).map(Label),
    alive=st.booleans(),
    rows_class=st.integers(1, 1 << 30),
    header=st.integers(0, 1 << 16),
    sinks=st.dictionaries(st.sampled_from(sorted(POLICY.sinks)), st.binary(max_size=20).map(Content.of)),
    uses=st.dictionaries(st.sampled_from(sorted(POLICY.declassifiers)), st.integers(0, 1000)),
    spent=st.dictionaries(st.sampled_from(sorted(POLICY.observers)), st.integers(0, 1 << 40)),
)


@given(STATES)
@settings(deadline=None)
def test_a_state_survives_its_dictionary(state: kernel.State) -> None:
    assert state_from_dict(state_to_dict(state)) == state


@given(state=STATES, key=st.sampled_from(sorted(kernel.State.__dataclass_fields__)))
def test_a_state_with_other_keys_is_refused(state: kernel.State, key: str) -> None:
    fields = state_to_dict(state)
    with pytest.raises(GuestApiError, match="exactly the keys"):
        state_from_dict(fields | {"more": 1})
    del fields[key]
    with pytest.raises(GuestApiError, match="exactly the keys"):
        state_from_dict(fields)


def test_a_stopped_job_says_why_and_its_guest_is_dead() -> None:
    run = configuring()
    events = run.monitor.stop(kernel.StopReason.PARTY_REFUSED)
    assert events == (kernel.Stopped(kernel.StopReason.PARTY_REFUSED),)
    with pytest.raises(StopGuest):
        run("schema", 0, 32)


def test_a_state_that_comes_back_from_the_guests_process_moves_no_clock_budget_or_ledger() -> None:
    begun = kernel.initial(POLICY, rows_class=64, spent={"user": 7})
    monitor = Monitor(POLICY, begun)
    written = {"plan": Content.of(b"plan")}
    monitor.take_back(
        kernel.State("Serve", 9, Label(frozenset({USER})), alive=True, rows_class=1, header=5, sinks=written)
    )
    label, sinks = begun.label.join(Label(frozenset({USER}))), {**begun.sinks, **written}
    assert monitor.state == replace(begun, label=label, sinks=sinks)
