"""Every way to run a guest: both bindings, both profiles."""

from __future__ import annotations

import pytest

from wasm_sandbox import Profile, guest
from wasm_sandbox.lean import LeanBinding, lean_available
from wasm_sandbox.public import PublicBinding

BINDINGS = {"public": PublicBinding, "lean": LeanBinding}
WAYS = [(binding, profile) for binding in BINDINGS for profile in Profile]


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{way[1].value}")
def every_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Profile]:
    """Run the test once for each binding and profile, as the default of `Rules`."""
    way: tuple[str, Profile] = request.param
    binding, profile = way
    assert lean_available(), "the lean binding was written for another wasmtime: see wasm_sandbox/lean.py"
    monkeypatch.setattr(guest, "BINDING", BINDINGS[binding])
    monkeypatch.setattr(guest, "PROFILE", profile)
    return way
