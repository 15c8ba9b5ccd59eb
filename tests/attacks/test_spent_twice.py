"""Attack: the operator repeats a job on the same data to be told more of them than one job may tell.

Averaging over repeated releases: Dinur, Nissim, "Revealing information while preserving privacy", PODS 2003.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from deployments import POLICY, POLICY_BYTES, content_of, make_attester, small_dataset

from chiron.guest_api.monitor import Monitor
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header
from chiron.policy.loader import parse_policy
from chiron.training.ledger import Ledgers
from chiron.training.submission import PartyKey

if TYPE_CHECKING:
    from pathlib import Path

    from chiron.policy.types import Policy

USER = PartyKey(b"u" * 32)
HEADER = Header(100, 16, 1, 4096, 5, 1000)  # as many releases as a header can ask for


def job(policy: Policy) -> Monitor:
    state = kernel.initial(policy, rows_class=60, spent={})
    return Monitor(policy, replace(state, phase="Approve", header=encode_header(policy.menus, HEADER)))


def granted(ledgers: Ledgers, policy: Policy, rows: int = 60) -> int:
    """Return how many jobs are charged before one is refused."""
    data_set = ledgers.identify(USER, content_of(small_dataset(rows)))
    count = 0
    while ledgers.charge(data_set, job(policy)) is not None:
        count += 1
        assert count < 1000
    return count


def test_repeated_jobs_end_with_the_ledger(tmp_path: Path) -> None:
    ledgers = Ledgers(tmp_path, make_attester(tmp_path))
    assert granted(ledgers, POLICY) == 10
    assert granted(ledgers, POLICY) == 0, "and stay so"


def test_a_new_lead_on_the_same_folder_counts_on(tmp_path: Path) -> None:
    attester = make_attester(tmp_path)
    assert granted(Ledgers(tmp_path, attester), POLICY) == 10
    assert granted(Ledgers(tmp_path, attester), POLICY) == 0


def test_what_is_left_is_never_more_than_the_cap(tmp_path: Path) -> None:
    """Whatever the policy's cap: all charges together are within it."""
    policy = parse_policy(POLICY_BYTES.replace(b"operator = 8110 ", b"operator = 2000 "))
    ledgers = Ledgers(tmp_path, make_attester(tmp_path))
    jobs = granted(ledgers, policy)
    spent = ledgers.spent(ledgers.identify(USER, content_of(small_dataset())))
    assert jobs == 2
    assert all(bits <= policy.ledger_cap_bits[who] for who, bits in spent.items())


def test_another_data_set_has_another_ledger(tmp_path: Path) -> None:
    ledgers = Ledgers(tmp_path, make_attester(tmp_path))
    assert granted(ledgers, POLICY, rows=60) == granted(ledgers, POLICY, rows=59) == 10
