"""Attack: somebody who has seen a party's signed request makes it again, on a connection of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import Deployment, deployment

from chiron.training.agreement import sign_request
from chiron.training.errors import Code
from chiron.training.node import Role
from chiron.training.wire import canonical, receive_map, send_map

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32)
PARTY = SIGNER.public_key().public_bytes_raw()
BODY = {"ask": "log", "job": "0" * 32}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Deployment]:
    with deployment(tmp_path, workers=1) as deployed:
        yield deployed


def test_a_request_is_good_on_its_connection_alone(running: Deployment) -> None:
    with running.dial_anonymously(Role.LEAD) as first, running.dial_anonymously(Role.LEAD) as second:
        signed = {
            "party": PARTY,
            "body": BODY,
            "signature": sign_request(SIGNER, first.exporter, canonical(BODY)),
        }
        answers = []
        for channel in (first, second):
            send_map(channel, signed)
            answers.append(receive_map(channel)["error"])
    assert answers == [Code.UNKNOWN_JOB.value, Code.NOT_A_PARTY.value]


def test_a_request_is_good_for_its_own_body_alone(running: Deployment) -> None:
    with running.dial_anonymously(Role.LEAD) as channel:
        signature = sign_request(SIGNER, channel.exporter, canonical(BODY))
        send_map(channel, {"party": PARTY, "body": BODY | {"ask": "receipt"}, "signature": signature})
        assert receive_map(channel)["error"] == Code.NOT_A_PARTY.value
