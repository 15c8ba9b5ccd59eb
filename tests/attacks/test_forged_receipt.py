"""Attack: somebody shows a receipt of a training that never was, or was another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import deployment
from jobs import GOOD, Job, submitted

from chiron.parties import approval
from chiron.parties.errors import PartyError
from chiron.training.agreement import Receipt, sign_receipt
from chiron.training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    with deployment(tmp_path_factory.mktemp("deployment")) as running:
        job = submitted(running, GOOD)
        assert job.run()["outcome"] == "sealed"
        yield job


@pytest.fixture
def receipt(sealed: Job) -> Receipt:
    return approval.fetch_receipt(sealed.running.platform(), sealed.user, sealed.id)[0]


def test_the_real_one_verifies(sealed: Job, receipt: Receipt) -> None:
    assert approval.verify_receipt(receipt, sealed.user)["outcome"] == "sealed"


@pytest.mark.parametrize("place", [0, 40, 400, -1])
def test_a_changed_bit_is_noticed(sealed: Job, receipt: Receipt, place: int) -> None:
    raw = bytearray(receipt.to_bytes())
    raw[place] ^= 1
    with pytest.raises((TrainingError, PartyError)):
        approval.verify_receipt(Receipt.from_bytes(bytes(raw)), sealed.user)


def test_a_better_outcome_under_the_attackers_own_key_is_refused(sealed: Job, receipt: Receipt) -> None:
    stated = receipt.stated() | {"outcome": "failed"}
    with pytest.raises(TrainingError, match="valid signature"):
        approval.verify_receipt(sign_receipt(Ed25519PrivateKey.generate(), stated), sealed.user)


def test_a_lead_that_drops_an_approval_is_noticed(sealed: Job, receipt: Receipt) -> None:
    """Even the lead's own key cannot state a job that a party did not approve."""
    stated = receipt.stated()
    party = next(iter(stated["approvals"]))
    forged = stated | {"approvals": {k: v for k, v in stated["approvals"].items() if k != party}}
    with pytest.raises(TrainingError, match="approval"):
        approval.verify_receipt(sign_receipt(sealed.running.lead.node.signer, forged), sealed.user)
