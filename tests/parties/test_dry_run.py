"""A dry run: everything a guest does is shown, and everything that would be refused is said."""

from __future__ import annotations

import pytest
from deployments import CLASSES, POLICY_BYTES, VALUES, small_dataset
from graphs import linear
from guests import HEADER, TRAP, guest
from transforming import scaled, transforming

from chiron.parties.dry_run import DryRun, dry_run
from chiron.parties.errors import PartyError

DATASET = small_dataset()
GRAPH = linear(VALUES, CLASSES)


def tried(binary: bytes, *, steps: int = 20, seed: int = 7) -> DryRun:
    return dry_run(binary, DATASET, policy_bytes=POLICY_BYTES, seed=seed, steps=steps)


def test_a_good_guest_shows_header_plan_size_log_and_falling_losses() -> None:
    text = "(drop (call $log (i32.const 0) (i32.const 1)))"
    shown = tried(guest(graph=GRAPH, configure=text))
    assert tuple(shown.header.as_dict().values()) == HEADER
    assert (shown.plan.optimiser, shown.parameters, shown.log) == ("sgd", VALUES * CLASSES, "\x01")
    assert len(shown.losses) == 20
    assert shown.losses[-1] < shown.losses[0]
    assert min(shown.configure_fuel, shown.create_fuel) > 0


def test_the_same_seed_gives_the_same_losses() -> None:
    assert tried(guest(graph=GRAPH)).losses == tried(guest(graph=GRAPH)).losses
    assert tried(guest(graph=GRAPH)).losses != tried(guest(graph=GRAPH), seed=8).losses


def test_no_steps_give_no_losses() -> None:
    assert tried(guest(graph=GRAPH), steps=0).losses == ()


@pytest.mark.parametrize(
    ("binary", "words"),
    [
        (b"MZ", "the guest is refused"),
        (guest(configure=TRAP), r"configure\(\) ended: trapped"),
        (guest(create=TRAP), r"create\(\) ended: trapped"),
        (guest(header=(7, 7, 7, 7, 7, 7)), "declared no header"),
        (guest(graph=b"no graph"), "the guest is refused"),
        (guest(graph=linear(VALUES + 1, CLASSES)), "the guest is refused"),
        (guest(graph=GRAPH, create="(drop (call $plan (i32.const 64) (i32.const 32)))"), "exactly once"),
    ],
)
def test_what_would_be_refused_is_said(binary: bytes, words: str) -> None:
    with pytest.raises(PartyError, match=words):
        tried(binary)


@pytest.mark.parametrize("export", ["transform_input", "augment", "transform_output"])
def test_how_a_transform_fails_is_said(export: str) -> None:
    with pytest.raises(PartyError, match=rf"{export}\(\) ended: trapped"):
        tried(transforming({export: TRAP}, graph=GRAPH))


def test_a_transform_that_works_in_training_but_not_for_a_query_is_said() -> None:
    drawing = "(drop (call $random (i32.const 8192) (i32.const 4)))" + scaled(1)
    with pytest.raises(PartyError, match="'random' is not granted in this phase"):
        tried(transforming({"transform_input": drawing}, graph=GRAPH))
