"""Attack: the platform ends the user's TLS itself and relays the real lead's Evidence (a cuckoo attack).

Parno, "Bootstrapping trust in a trusted platform", HotSec 2008. Evidence speaks for one TLS key and one
connection: whoever ends the connection needs both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from world import World

from enclave import Channel, ChannelError, Identity, make_identity
from enclave.channel import EXPORTER_STATEMENT
from enclave.identity import _certify

if TYPE_CHECKING:
    from pathlib import Path

    from enclave import Evidence


class Cuckoo(Identity):
    """The attacker's key; where Evidence is due it has the real lead make some."""

    def fresh_evidence(self, extra: Any) -> Evidence:  # noqa: ANN401  statements
        victim: Identity = self.victim  # type: ignore[attr-defined]
        return victim.fresh_evidence(dict(extra) | self.forged)  # type: ignore[attr-defined]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def cuckoo(world: World, forged: dict[str, bytes], *, copied: bool) -> Identity:
    now = int(world.attester._now())
    own = make_identity(world.attester, {"role": b"lead"}, now=now)
    certificate = _certify(own.key, world.lead.evidence, now=now) if copied else own.certificate
    attacker = Cuckoo(own.attester, own.statements, own.key, certificate, own.evidence)
    object.__setattr__(attacker, "victim", world.lead)
    object.__setattr__(attacker, "forged", forged)
    return attacker


def refusal(world: World, server: Identity) -> str:
    """Return why the client does not speak to this server."""
    client, other = world.meet(client=world.worker, server=server)
    if isinstance(other, Channel):
        other.close()
    assert isinstance(client, ChannelError)
    return str(client)


@pytest.mark.parametrize(
    ("forged", "copied", "step"),
    [
        ({}, True, "made for another TLS key"),  # the lead's certificate's Evidence under the attacker's key
        ({}, False, "made for another TLS key"),  # fresh Evidence of the lead for the attacker's connection
        ({EXPORTER_STATEMENT: bytes(32)}, False, "does not state the required"),  # of the lead's connection
    ],
)
def test_relayed_evidence_is_refused(
    world: World, forged: dict[str, bytes], *, copied: bool, step: str
) -> None:
    assert step in refusal(world, cuckoo(world, forged, copied=copied))


def test_a_real_lead_of_another_processor_is_refused(world: World, tmp_path: Path) -> None:
    """The platform has a simulated processor of its own, whose key it knows: it can sign anything."""
    (tmp_path / "attackers").mkdir()
    other = World(tmp_path / "attackers")
    assert "not signed by the root key" in refusal(world, other.lead)


def test_the_parties_own_reference_values_pass(world: World) -> None:
    """The same steps without an attacker: the test above can fail."""
    for channel in World.opened(world.meet(client=world.worker, server=world.lead)):
        channel.close()
