"""Leak tests of the guest, with Chiron's pytest plugin. `pytest --leak-selfcheck` also tests the tests."""

import pytest
from chiron.guest_api.dataset import Schema

GUEST = "build/guest.wasm"
TABLE = Schema(shape=(6,), classes=4, dtype="float32", rows_class=104, held_out_class=26)


@pytest.mark.leak(observer="operator", examples=200)
def test_nothing_of_the_users_data_reaches_us(two_runs):
    two_runs(GUEST, schema=TABLE)


@pytest.mark.leak(observer="user", examples=200)
def test_nothing_of_our_guest_reaches_the_user(two_runs):
    two_runs(GUEST, schema=TABLE)


@pytest.mark.leak(observer="platform", examples=200)
def test_the_platform_sees_neither(two_runs):
    two_runs(GUEST, schema=TABLE)
