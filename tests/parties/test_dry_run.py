"""A dry run: everything a guest does is shown, and everything that would be refused is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from deployments import CLASSES, POLICY_BYTES, VALUES, small_dataset
from graphs import linear
from guests import HEADER, TRAP, guest
from transforming import scaled, transforming

from chiron.guest_api.limits import compile_guest
from chiron.guest_api.monitor import Monitor
from chiron.parties.build import build
from chiron.parties.dry_run import DryRun, dry_run
from chiron.parties.errors import PartyError
from chiron.policy import kernel
from chiron.policy.loader import parse_policy
from chiron.training.create import run_configure

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
    assert shown.losses[-1] < shown.losses[0] / 4  # rows alone, without descent, move them by a tenth
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


TRAPS_IN_LINE_4 = """#include "chiron.h"
static volatile int32_t deep = 1;
__attribute__((noinline)) static int32_t helper(int32_t depth) {
  if (depth) __builtin_trap();
  return deep;
}
int32_t configure(void) { return helper(deep); }
int32_t create(void) { return 0; }
"""


@pytest.fixture(scope="module")
def trapping(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("trap")
    toml = 'name = "trap"\nlanguage = "c"\nsources = ["guest.c"]\nmemory_bytes = 524288\n'
    (folder / "guest.toml").write_text(toml, encoding="utf-8")
    (folder / "guest.c").write_text(TRAPS_IN_LINE_4, encoding="utf-8")
    sdk = Path(__file__).resolve().parents[2] / "spec" / "sdk" / "c"
    return build(folder, sdk=sdk).read_bytes()


def test_a_trap_names_function_file_and_line(trapping: bytes) -> None:
    with pytest.raises(PartyError, match=r"helper[\s\S]*guest\.c:4:[\s\S]*configure[\s\S]*guest\.c:7:"):
        tried(trapping)


def test_a_trap_on_the_platform_names_no_line(trapping: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WASMTIME_BACKTRACE_DETAILS", "1")  # the host's environment does not reach the guest's
    policy = parse_policy(POLICY_BYTES)
    monitor = Monitor(policy, kernel.initial(policy, rows_class=DATASET.schema.rows_class, spent={}))
    made = compile_guest(policy, trapping)
    report = run_configure(POLICY_BYTES, made, DATASET.schema, monitor=monitor, seed=bytes(8))
    assert report.ending == "trapped"
    assert "guest.c" not in report.detail
