"""The ledger of a data set: which data set it is, what is charged when, and who cannot get bits back."""

from __future__ import annotations

import hashlib
import hmac
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from deployments import CLASSES, POLICY, VALUES, content_of, deployment, make_attester, small_dataset
from graphs import linear
from guests import HEADER, guest

from chiron.cli.party import describe_offer
from chiron.guest_api.chunks import decode_dataset, encode_dataset
from chiron.guest_api.errors import DatasetError
from chiron.guest_api.monitor import Monitor
from chiron.parties import approval
from chiron.parties.submit import new_job_id, submit_dataset, submit_guest
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header
from chiron.policy.kernel import StopReason
from chiron.policy.releases import data_set_bits
from chiron.training import job, ledger
from chiron.training.ledger import DataSetId, Ledgers
from chiron.training.submission import JobId, PartyKey
from enclave import SealError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployments import Deployment

    from chiron.guest_api.dataset import Dataset
    from chiron.parties.home import Home
    from chiron.training.agreement import Offer

DATASET = small_dataset()
USER, OTHER = PartyKey(b"u" * 32), PartyKey(b"o" * 32)
NUMBER = encode_header(POLICY.menus, Header(*HEADER))
COST = data_set_bits(POLICY, header=NUMBER, rows_class=DATASET.schema.rows_class)
NOTHING = dict.fromkeys(COST, 0)


@pytest.fixture
def ledgers(tmp_path: Path) -> Ledgers:
    return Ledgers(tmp_path, make_attester(tmp_path))


@pytest.fixture
def mine(ledgers: Ledgers) -> DataSetId:
    return ledgers.identify(USER, content_of(DATASET))


def approved(spent: dict[str, int] | None = None) -> Monitor:
    """Return the monitor of a job that both parties approved."""
    state = kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent=spent or {})
    return Monitor(POLICY, replace(state, phase="Approve", header=NUMBER))


def times(count: int) -> dict[str, int]:
    return {name: count * bits for name, bits in COST.items()}


# Which data set it is


def test_data_that_was_decoded_again_has_the_same_ledger(ledgers: Ledgers, mine: DataSetId) -> None:
    assert ledgers.identify(USER, content_of(decode_dataset(encode_dataset(DATASET), DATASET.schema))) == mine


def test_bytes_hidden_in_the_padding_are_refused_so_that_they_make_no_new_ledger() -> None:
    padded = small_dataset(held_out=17)
    assert padded.schema.held_out_class > 17
    with pytest.raises(DatasetError, match="padding is not zero"):
        decode_dataset(encode_dataset(padded)[:-1] + b"\x01", padded.schema)


def test_another_declared_number_of_targets_makes_no_new_ledger(ledgers: Ledgers, mine: DataSetId) -> None:
    more = replace(DATASET, schema=replace(DATASET.schema, classes=CLASSES + 1))
    assert ledgers.identify(USER, content_of(more)) == mine


def test_one_changed_value_or_target_makes_another_data_set(ledgers: Ledgers, mine: DataSetId) -> None:
    rows, targets = DATASET.rows.copy(), DATASET.held_out_targets.copy()
    rows[0, 0] += 1
    targets[0] = (targets[0] + 1) % CLASSES
    assert ledgers.identify(USER, content_of(replace(DATASET, rows=rows))) != mine
    assert ledgers.identify(USER, content_of(replace(DATASET, held_out_targets=targets))) != mine


def test_nobody_else_finds_a_users_ledger_by_submitting_the_same_data(
    ledgers: Ledgers, mine: DataSetId
) -> None:
    ledgers.charge(mine, approved())
    assert ledgers.spent(ledgers.identify(OTHER, content_of(DATASET))) == {}


def test_a_ledgers_name_is_keyed_for_names_alone(mine: DataSetId, tmp_path: Path) -> None:
    key = make_attester(tmp_path).sealing_key("data set identity")
    assert mine == hmac.new(key, USER + content_of(DATASET), hashlib.sha256).hexdigest()


def test_another_deployment_has_another_name_for_the_data_set(mine: DataSetId, tmp_path: Path) -> None:
    assert Ledgers(tmp_path, make_attester(tmp_path / "other")).identify(USER, content_of(DATASET)) != mine


# Charges


def test_a_data_set_without_a_file_has_spent_nothing(ledgers: Ledgers, mine: DataSetId) -> None:
    assert ledgers.spent(mine) == {}


def test_a_charge_survives_a_restart_and_the_next_adds_to_it(
    ledgers: Ledgers, mine: DataSetId, tmp_path: Path
) -> None:
    assert ledgers.charge(mine, approved()) == COST
    again = Ledgers(tmp_path, make_attester(tmp_path))
    assert again.spent(again.identify(USER, content_of(DATASET))) == COST
    assert again.charge(mine, approved()) == COST
    assert ledgers.spent(mine) == times(2)


@pytest.mark.parametrize("observer", sorted(COST))
@pytest.mark.parametrize(("over", "fits"), [(-1, True), (0, True), (1, False)])
def test_a_job_that_reaches_the_cap_is_charged_and_one_over_it_is_refused(
    ledgers: Ledgers, mine: DataSetId, observer: str, over: int, *, fits: bool
) -> None:
    before = NOTHING | {observer: POLICY.ledger_cap_bits[observer] - COST[observer] + over}
    ledgers._commit(mine, before)
    monitor = approved()
    assert (ledgers.charge(mine, monitor) == COST) is fits
    assert monitor.state.phase == ("Create" if fits else "Ended")
    assert ledgers.spent(mine) == ({n: before[n] + COST[n] for n in COST} if fits else before)


def test_what_other_jobs_spent_since_the_offer_counts(ledgers: Ledgers, mine: DataSetId) -> None:
    waiting = approved(spent=ledgers.spent(mine))
    ledgers._commit(mine, dict(POLICY.ledger_cap_bits))
    assert ledgers.charge(mine, waiting) is None


def test_a_ledger_that_was_put_back_after_the_offer_gives_nothing_back(
    ledgers: Ledgers, mine: DataSetId
) -> None:
    waiting = approved(spent=times(2))
    assert ledgers.charge(mine, waiting) == COST
    assert ledgers.spent(mine) == times(3)


def test_two_jobs_at_once_do_not_both_get_the_last_bits(
    ledgers: Ledgers, mine: DataSetId, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for_one = {name: cap - COST[name] for name, cap in POLICY.ledger_cap_bits.items()}
    ledgers._commit(mine, room_for_one)
    both_read = threading.Barrier(2)
    read = Ledgers.spent

    def meet(self: Ledgers, data_set: DataSetId) -> dict[str, int]:
        spent = read(self, data_set)
        with suppress(threading.BrokenBarrierError):
            both_read.wait(timeout=0.3)  # without the lock both jobs have read before either writes
        return spent

    monkeypatch.setattr(Ledgers, "spent", meet)
    answers: list[object] = []
    jobs = (approved(), approved())
    threads = [threading.Thread(target=lambda m=m: answers.append(ledgers.charge(mine, m))) for m in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer is None for answer in answers) == [False, True]
    assert read(ledgers, mine) == POLICY.ledger_cap_bits


def test_a_charge_that_cannot_be_written_is_no_charge_and_an_error(
    ledgers: Ledgers, mine: DataSetId, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write_atomically", full)
        with pytest.raises(OSError, match="No space"):
            ledgers.charge(mine, approved())
    assert ledgers.spent(mine) == {}


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "exchange"])
def test_a_file_that_was_changed_or_exchanged_is_refused_and_never_replaced(
    ledgers: Ledgers, mine: DataSetId, tmp_path: Path, damage: str
) -> None:
    ledgers._commit(mine, times(1))
    path = tmp_path / f"{mine}.ledger"
    raw = path.read_bytes()
    other = ledgers.identify(OTHER, content_of(DATASET))
    ledgers._commit(other, NOTHING)
    exchanged = (tmp_path / f"{other}.ledger").read_bytes()
    bad = {"flip": raw[:-1] + bytes([raw[-1] ^ 1]), "cut": raw[:-1], "empty": b"", "exchange": exchanged}
    path.write_bytes(bad[damage])
    with pytest.raises(SealError):
        ledgers.spent(mine)
    with pytest.raises(SealError):
        ledgers.charge(mine, approved())
    assert path.read_bytes() == bad[damage]


def test_a_ledger_tells_the_platform_no_content(ledgers: Ledgers, mine: DataSetId, tmp_path: Path) -> None:
    ledgers._commit(mine, {"user": 1})
    ledgers._commit(ledgers.identify(OTHER, content_of(DATASET)), {"user": 2})
    first, second = (path.read_bytes() for path in tmp_path.glob("*.ledger"))
    assert len(first) == len(second)
    assert b"user" not in first


# Whole jobs


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Deployment]:
    with deployment(tmp_path, workers=1) as deployed:  # the header wants two: no job gets past its charge
        yield deployed


def submitted(running: Deployment, user: Home, dataset: Dataset = DATASET) -> tuple[JobId, Home]:
    operator, name = running.home(), new_job_id()
    binary = guest(graph=linear(VALUES, CLASSES), header=(2, 16, 2, 4096, 20, 1000))
    submit_guest(running.platform(), operator, policy=POLICY, guest=binary, job=name, seed=7)
    submit_dataset(running.platform(), user, dataset=dataset, job=name)
    running.attach(name)
    return name, operator


def ended(running: Deployment, user: Home) -> tuple[Offer, dict[str, Any]]:
    """Run a job on the small data set as far as it comes; return its offer and how it ended."""
    name, operator = submitted(running, user)
    running.events.wait_for(event="phase", job=name, phase="Approve")
    offer = approval.fetch_offer(running.platform(), user, name, policy=POLICY)
    for home in (user, operator):
        approval.approve(running.platform(), home, offer)
    return offer, running.events.wait_for_end(name)


def data_set_of(running: Deployment, user: Home) -> DataSetId:
    party = PartyKey(user.signer.public_key().public_bytes_raw())
    return running.lead.ledgers.identify(party, content_of(DATASET))


def test_a_job_that_is_lost_after_its_charge_keeps_it_and_the_next_on_the_same_data_sees_it(
    running: Deployment,
) -> None:
    user = running.home()
    first, end = ended(running, user)
    assert (first.ledger["spent"], end["reason"]) == (NOTHING, StopReason.PLATFORM_FAULT.name)
    charge = first.ledger["charge"]
    assert running.lead.ledgers.spent(data_set_of(running, user)) == charge
    second, _ = ended(running, user)
    assert first.dataset != second.dataset  # encrypted anew
    assert second.ledger["spent"] == charge
    caps = POLICY.ledger_cap_bits
    assert second.ledger["left"] == {name: caps[name] - 2 * charge[name] for name in caps}


def test_the_charge_is_on_the_disk_when_the_phase_that_reads_data_is_announced_and_before_keys_are_shared(
    running: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, seen = running.home(), []

    def crash(*_: object, **__: object) -> None:
        seen.append(running.lead.ledgers.spent(data_set_of(running, user)))
        raise OSError(5, "the process died here")

    monkeypatch.setattr(job, "prepare", crash)
    offer, end = ended(running, user)
    assert seen == [offer.ledger["charge"]]
    assert end["reason"] == StopReason.PLATFORM_FAULT.name
    announced = running.events.wait_for(event="phase", job=offer.job, phase="Create")
    assert announced["charged"] == offer.ledger["charge"]


def test_a_job_that_does_not_fit_is_refused_in_words_that_both_parties_saw_before(
    running: Deployment,
) -> None:
    user = running.home()
    full = NOTHING | {"operator": POLICY.ledger_cap_bits["operator"]}
    running.lead.ledgers._commit(data_set_of(running, user), full)
    offer, end = ended(running, user)
    assert offer.ledger["left"]["operator"] < 0
    assert "does not fit and will be refused" in describe_offer(offer)
    assert StopReason.LEDGER_SPENT.value in describe_offer(offer)
    assert "train on other data" in StopReason.LEDGER_SPENT.value
    assert end["reason"] == StopReason.LEDGER_SPENT.name
    assert running.lead.ledgers.spent(data_set_of(running, user)) == full


def test_a_changed_ledger_stops_a_job_before_its_guest_runs(running: Deployment) -> None:
    user = running.home()
    (running.folder / f"{data_set_of(running, user)}.ledger").write_bytes(b"changed")
    name, _ = submitted(running, user)
    assert running.events.wait_for_end(name)["reason"] == StopReason.PLATFORM_FAULT.name
    assert [event["event"] for _, event in running.events.of(name)] == ["stopped"]
