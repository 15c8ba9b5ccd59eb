"""The policy kernel: properties over arbitrary programs, and one fact per rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.policy import kernel
from chiron.policy.header import Header, combinations, decode_header, encode_header, slots_for
from chiron.policy.kernel import (
    Call,
    Charged,
    Fault,
    Frame,
    Release,
    Reply,
    State,
    Stop,
    Stopped,
    StopReason,
    Tick,
)  # fmt: skip
from chiron.policy.loader import load_policy
from chiron.policy.releases import data_set_bits
from chiron.policy.types import Content, HostCallRule, Label, Policy, Principal

POLICY = load_policy()
HEADER = Header(epochs=2, batch=16, workers=2, parameters=4096, slot_ms=5, create_ms=1000)
HEADER_NUMBER = encode_header(POLICY.menus, HEADER)
ROWS = 104
OPERATOR = Label(frozenset({Principal("operator")}))
BOTH = Label(frozenset({Principal("operator"), Principal("user")}))

payloads = st.binary(max_size=12).map(Content.of)
calls = st.builds(Call, st.sampled_from([*sorted(POLICY.calls), "unknown"]), payloads)
trusted = st.dictionaries(st.sampled_from(sorted(POLICY.declassifiers)), st.integers(0, 2**64))
actions = st.one_of(
    calls, calls, st.just(Fault()), st.builds(Tick, trusted), st.builds(Stop, st.sampled_from(StopReason))
)


def fresh() -> State:
    return kernel.initial(POLICY, rows_class=ROWS, spent={})


def run(state: State, *steps: kernel.Action) -> tuple[State, list[kernel.Event]]:
    events: list[kernel.Event] = []
    for action in steps:
        state, _, new = kernel.step(POLICY, state, action)
        events += new
    return state, events


def call(name: str, payload: bytes) -> Call:
    return Call(name, Content.of(payload))


def declared() -> kernel.Call:
    return call("header", HEADER_NUMBER.to_bytes(8, "little"))


def in_phase(phase: str) -> State:
    state, _ = run(fresh(), declared())
    while state.phase != phase:
        assert state.phase != kernel.LAST_PHASE, f"the job ended before {phase}"
        state, _ = run(state, Tick({"outcome": 1, "accuracy": 1, "loss": 1, "answer": 1}))
    return state


@given(st.lists(actions, max_size=60))
def test_every_action_in_every_state_has_an_answer_and_no_release_exceeds_its_budget(
    program: list[kernel.Action],
) -> None:
    state, events = run(fresh(), *program)
    assert state.phase in POLICY.phases
    for name, rule in POLICY.declassifiers.items():
        released = [event for event in events if isinstance(event, Release) and event.name == name]
        assert len(released) <= rule.uses
        assert all(0 <= event.value < 1 << rule.bits for event in released)  # NI-5


@given(st.lists(st.one_of(calls, st.just(Fault())), max_size=40))
def test_nothing_leaves_at_a_call_or_a_fault(program: list[kernel.Action]) -> None:
    assert run(fresh(), *program)[1] == []
    assert run(in_phase("Create"), *program)[1] == []


@given(st.lists(st.one_of(calls, st.just(Fault())), max_size=30), st.lists(calls, max_size=30))
def test_what_a_guest_does_after_taint_changes_neither_phase_nor_public_events(
    left: list[kernel.Action], right: list[kernel.Action]
) -> None:
    runs = []
    for program in (left, right):
        state, events = run(
            in_phase("Create"), *program, *[Tick({"outcome": 0, "accuracy": 0, "loss": 0})] * 80
        )
        runs.append((state.phase, state.ticks_left, state.header, state.uses, events))
    assert runs[0] == runs[1]  # NI-4


def test_a_call_outside_its_phases_is_denied_and_ends_the_guest() -> None:
    state, reply, events = kernel.step(POLICY, fresh(), Call("batch"))
    assert (reply, state.alive, events) == (Reply.DENIED, False, ())  # NI-1
    assert kernel.step(POLICY, state, Call("schema"))[1] is Reply.DENIED


def test_reading_data_adds_the_users_label() -> None:
    state, _ = run(in_phase("Create"), Call("statistics"))
    assert state.label == BOTH  # NI-2


def test_a_tainted_guest_cannot_write_to_a_sink_that_the_operator_reads() -> None:
    log = HostCallRule(frozenset({"Create"}), None, "operator_log")
    weakened = replace(POLICY, calls={**POLICY.calls, "log": log})
    tainted, _ = run(in_phase("Create"), Call("batch"))
    assert kernel.step(weakened, tainted, call("log", b"x"))[1] is Reply.DENIED  # NI-3
    assert kernel.step(weakened, in_phase("Create"), call("log", b"x"))[1] is Reply.GRANTED


def test_a_call_with_neither_source_nor_sink_is_denied() -> None:
    odd = replace(POLICY, calls={"odd": HostCallRule(frozenset({"Configure"}), None, None)})
    assert kernel.step(odd, fresh(), Call("odd"))[1] is Reply.DENIED


def test_a_sink_takes_exactly_its_capacity() -> None:
    capacity = POLICY.sinks["operator_log"].capacity_bytes
    full, reply, _ = kernel.step(POLICY, fresh(), call("log", bytes(capacity)))
    assert reply is Reply.GRANTED
    assert kernel.step(POLICY, full, call("log", b"x"))[1] is Reply.DENIED


def test_the_log_leaves_at_the_tick_in_a_frame_of_fixed_size_for_the_operator_alone() -> None:
    _, events = run(fresh(), call("log", b"hi"), declared(), Tick())
    (frame,) = [event for event in events if isinstance(event, Frame)]
    assert frame == Frame("operator_log", OPERATOR, 65536, Content.of(b"hi"))
    _, silent = run(fresh(), Tick())
    assert [(e.sink, e.size_bytes) for e in silent if isinstance(e, Frame)] == [("operator_log", 65536)]


def test_the_header_is_released_once_and_sets_the_schedule() -> None:
    state, events = run(fresh(), declared(), Tick())
    assert [e.value for e in events if isinstance(e, Release)] == [HEADER_NUMBER]
    assert (state.phase, state.header) == ("Approve", HEADER_NUMBER)
    assert in_phase("Train").ticks_left == slots_for(HEADER, ROWS)
    assert in_phase("Seal").ticks_left == HEADER.epochs
    assert in_phase("Serve").ticks_left == POLICY.declassifiers["answer"].uses


@pytest.mark.parametrize("program", [[], [Fault()], [declared(), Fault()], [call("header", bytes(8))]])
def test_without_a_header_the_job_ends_at_the_first_tick(program: list[kernel.Action]) -> None:
    state, events = run(fresh(), *program, Tick())
    assert (state.phase, state.alive) == ("Ended", False)
    assert [e.value for e in events if isinstance(e, Release)] == [0]


def test_a_loss_is_released_each_epoch_and_the_outcome_once() -> None:
    given_values = {"outcome": 1, "accuracy": 975, "loss": 300}
    _, events = run(in_phase("Seal"), Tick(given_values), Tick(given_values))
    released = [(e.name, e.value) for e in events if isinstance(e, Release)]
    assert released == [("outcome", 1), ("accuracy", 975), ("loss", 300 % 256), ("loss", 300 % 256)]


@pytest.mark.parametrize("name", ["outcome", "accuracy", "loss"])
def test_a_release_is_cut_to_its_declared_bits(name: str) -> None:
    bits = POLICY.declassifiers[name].bits
    for value in (0, 2**bits - 1, 2**bits, 2**bits + 1, 2**64):
        _, events = run(in_phase("Seal"), Tick({name: value}))
        (released,) = (e.value for e in events if isinstance(e, Release) and e.name == name)
        assert released == value % 2**bits


def test_a_trusted_release_without_a_value_releases_zero_so_that_its_lack_says_nothing() -> None:
    _, events = run(in_phase("Seal"), Tick())
    assert [(e.name, e.value) for e in events if isinstance(e, Release)] == [
        ("outcome", 0), ("accuracy", 0), ("loss", 0),
    ]  # fmt: skip


def test_answers_end_with_their_budget() -> None:
    uses = POLICY.declassifiers["answer"].uses
    state, events = run(in_phase("Serve"), *[Tick({"answer": 5})] * (uses + 3))
    assert (len(events), state.phase) == (uses, "Ended")


def test_secrets_in_sinks_are_gone_when_their_phase_is_over() -> None:
    state, _ = run(in_phase("Create"), call("graph", b"secret"), Tick())
    assert state.sinks == dict.fromkeys(POLICY.sinks, kernel.EMPTY)


def test_a_stop_ends_the_job_visibly_with_a_reason_of_the_closed_list() -> None:
    state, events = run(in_phase("Create"), call("graph", b"x"), Stop(StopReason.PARTY_REFUSED))
    assert (state.phase, state.ticks_left, state.alive) == ("Ended", 1, False)
    assert state.sinks == dict.fromkeys(POLICY.sinks, kernel.EMPTY)
    assert events == [Stopped(StopReason.PARTY_REFUSED)]


def test_a_job_that_stops_in_a_long_phase_has_no_ticks_left_to_tell_which() -> None:
    training = in_phase("Train")
    assert training.ticks_left > 2
    stopped, _ = run(training, Stop(StopReason.PLATFORM_FAULT))
    again, _ = run(in_phase("Create"), Stop(StopReason.PLATFORM_FAULT))
    assert stopped.ticks_left == again.ticks_left == 1


def training(*, fresh: bool, frames: tuple[str, ...] = ()) -> tuple[Policy, State]:
    """Return a policy whose Train is so, and a state in it whose guest has died after it wrote to a sink."""
    train = replace(POLICY.phases["Train"], fresh=fresh, frames=frames)
    state = in_phase("Train")
    written = {**state.sinks, "operator_log": Content.of(b"hi")}
    policy = replace(POLICY, phases={**POLICY.phases, "Train": train})
    return policy, replace(state, alive=False, sinks=written)


def test_a_fresh_phase_starts_a_new_guest_with_empty_sinks_and_the_old_label_at_each_tick() -> None:
    policy, state = training(fresh=True)
    after, _, _ = kernel.step(policy, state, Tick())
    assert (after.phase, after.ticks_left) == ("Train", state.ticks_left - 1)
    assert (after.alive, after.label) == (True, state.label)
    assert after.sinks == dict.fromkeys(POLICY.sinks, kernel.EMPTY)


def test_in_another_phase_a_guest_that_ended_stays_ended_and_what_it_wrote_stays() -> None:
    policy, state = training(fresh=False)
    after, _, _ = kernel.step(policy, state, Tick())
    assert after == replace(state, ticks_left=state.ticks_left - 1)


def test_sinks_are_empty_after_a_phases_end_also_where_the_next_starts_no_new_guest() -> None:
    policy, state = training(fresh=False)
    following = policy.phases["Train"].next
    phases = {**policy.phases, following: replace(policy.phases[following], fresh=False)}
    after, _, _ = kernel.step(replace(policy, phases=phases), replace(state, ticks_left=1), Tick())
    assert after.phase == following
    assert after.sinks == dict.fromkeys(POLICY.sinks, kernel.EMPTY)


def test_the_first_phase_is_as_long_as_the_policy_says() -> None:
    first = replace(POLICY.phases[POLICY.first_phase], ticks=3)
    policy = replace(POLICY, phases={**POLICY.phases, POLICY.first_phase: first})
    assert kernel.initial(policy, rows_class=ROWS, spent={}).ticks_left == 3


def test_what_a_frame_has_told_is_told_once() -> None:
    policy, state = training(fresh=False, frames=("operator_log",))
    told = []
    for _ in range(2):
        state, _, events = kernel.step(policy, state, Tick())
        told += [event.content for event in events if isinstance(event, Frame)]
    assert told == [Content.of(b"hi"), kernel.EMPTY]
    assert state.sinks == dict.fromkeys(POLICY.sinks, kernel.EMPTY)


@pytest.mark.parametrize("name", ["outcome", "accuracy", "loss"])
def test_a_release_says_to_whom_it_goes_and_how_wide_it_is(name: str) -> None:
    rule = POLICY.declassifiers[name]
    _, events = run(in_phase("Seal"), Tick({name: 1}))
    assert Release(name, rule.to, rule.bits, 1) in events


@given(st.integers(0, 2**40))
def test_every_released_number_decodes_to_a_header_of_the_menus(number: int) -> None:
    header = decode_header(POLICY.menus, number)
    assert (header is None) == (number == 0)
    if header is not None:
        assert all(getattr(header, name) in values for name, values in POLICY.menus.fields)
        assert encode_header(POLICY.menus, header) == (number - 1) % combinations(POLICY.menus) + 1


def test_a_phase_that_lasts_by_the_header_lasts_one_tick_where_there_is_none() -> None:
    phases = {**POLICY.phases, "Configure": replace(POLICY.phases["Configure"], release=(), next="Train")}
    state, _, _ = kernel.step(replace(POLICY, phases=phases), fresh(), Tick())
    assert (state.phase, state.ticks_left) == ("Train", 1)


def approved(**spent: int) -> tuple[State, list[kernel.Event]]:
    """Return what the tick that ends Approve comes to, with a ledger that earlier jobs have used."""
    state = kernel.initial(POLICY, rows_class=ROWS, spent=spent)
    state, _ = run(state, declared(), Tick())
    return run(state, Tick())


COST = data_set_bits(POLICY, header=HEADER_NUMBER, rows_class=ROWS)


def test_an_approved_job_is_charged_to_its_data_sets_ledger_before_its_guest_may_read() -> None:
    state, events = approved(operator=5)
    assert (state.phase, events) == ("Create", [Charged(COST)])
    assert state.spent == {**COST, "operator": COST["operator"] + 5}


@pytest.mark.parametrize("observer", sorted(POLICY.observers))
def test_a_job_that_the_ledger_cannot_pay_for_ends_before_its_guest_may_read(observer: str) -> None:
    left = POLICY.ledger_cap_bits[observer] - COST[observer]
    assert approved(**{observer: left})[0].phase == "Create"
    state, events = approved(**{observer: left + 1})
    assert (state.phase, state.alive, events) == ("Ended", False, [Stopped(StopReason.LEDGER_SPENT)])
    assert state.spent == dict.fromkeys(POLICY.observers, 0) | {observer: left + 1}


def test_a_charge_counts_releases_of_a_phase_that_lasts_by_the_rows() -> None:
    train = replace(POLICY.phases["Train"], release=("loss",))
    policy = replace(POLICY, phases={**POLICY.phases, "Train": train})
    state = replace(in_phase("Approve"), spent=dict.fromkeys(POLICY.observers, 0))
    _, _, (charged,) = kernel.step(policy, state, Tick())
    assert charged == Charged(data_set_bits(policy, header=HEADER_NUMBER, rows_class=ROWS))
