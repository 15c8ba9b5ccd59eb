"""Attack: the platform keeps Evidence of an enclave that is gone, or was patched, and shows it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from world import World

from enclave import Channel, ChannelError, Measurement, SimulatedAttester, make_identity

if TYPE_CHECKING:
    from pathlib import Path

    from enclave import Identity

DAY_S = 24 * 3600


class Recording(SimulatedAttester):
    """Gives the same quote again, whatever it is asked to bind."""

    kept: bytes | None = None

    def attest(self, report_data: bytes) -> bytes:
        self.kept = self.kept or super().attest(report_data)
        return self.kept


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refusal(world: World, server: Identity) -> str:
    client, other = world.meet(client=world.worker, server=server)
    if isinstance(other, Channel):
        other.close()
    assert isinstance(client, ChannelError)
    return str(client)


def test_a_quote_that_is_played_again_binds_nothing_of_this_connection(world: World, tmp_path: Path) -> None:
    attester = Recording(tmp_path / "cpu", Measurement("ab" * 32))
    replayer = make_identity(attester, {"role": b"lead"}, now=int(attester._now()))
    assert "does not bind these statements" in refusal(world, replayer)


def test_evidence_from_before_is_too_old(world: World, tmp_path: Path) -> None:
    now = world.attester._now()
    attester = SimulatedAttester(tmp_path / "cpu", Measurement("ab" * 32), now=lambda: now - DAY_S - 3600)
    stale = make_identity(attester, {"role": b"lead"}, now=int(now))
    assert "s old" in refusal(world, stale)


def test_evidence_from_tomorrow_is_refused_too(world: World, tmp_path: Path) -> None:
    now = world.attester._now()
    attester = SimulatedAttester(tmp_path / "cpu", Measurement("ab" * 32), now=lambda: now + DAY_S)
    early = make_identity(attester, {"role": b"lead"}, now=int(now))
    assert "s old" in refusal(world, early)
