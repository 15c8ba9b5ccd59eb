"""Random modules, each as two jobs that differ in the user's data alone; `benchmarks/` has the full run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import smith

from chiron.policy import kernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from chiron.policy.types import Policy

pytestmark = pytest.mark.long

COUNT = 120
STEP = kernel.step


def test_of_120_random_modules_none_ends_the_host_or_shows_a_secret() -> None:
    lines = list(smith.hunt(COUNT))
    made = [line for line in lines if line.get("made", True)]
    assert [line["seed"] for line in lines if line.get("leak")] == []
    assert len(lines) == COUNT
    assert len(made) > COUNT * 0.9
    # power: without it, "no difference" would say nothing
    assert sum(bool(line["reads"]) for line in made) > COUNT / 5
    assert sum(bool(line["diverged"]) for line in made) > COUNT / 10


def ending_is_visible(
    action: kernel.Action, _: kernel.State, events: tuple[kernel.Event, ...]
) -> tuple[kernel.Event, ...]:
    if isinstance(action, kernel.Fault):
        return (*events, kernel.Stopped(kernel.StopReason.PLATFORM_FAULT))
    return events


def frame_is_trimmed(
    action: kernel.Action, before: kernel.State, events: tuple[kernel.Event, ...]
) -> tuple[kernel.Event, ...]:
    if isinstance(action, kernel.Tick) and before.phase == "Create":
        content = before.sinks.get("graph", kernel.EMPTY)
        return (*events, kernel.Frame("graph", smith.POLICY.sinks["graph"].label, content.size, content))
    return events


def frame_leaves_at_the_call(
    action: kernel.Action, _: kernel.State, events: tuple[kernel.Event, ...]
) -> tuple[kernel.Event, ...]:
    if isinstance(action, kernel.Call) and action.name == "graph":
        sink = smith.POLICY.sinks["graph"]
        return (*events, kernel.Frame("graph", sink.label, sink.capacity_bytes, kernel.EMPTY))
    return events


@pytest.mark.parametrize("sabotage", [ending_is_visible, frame_is_trimmed, frame_leaves_at_the_call])
def test_the_same_runs_find_a_gate_that_leaks_within_60_modules(
    sabotage: Callable[..., tuple[kernel.Event, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(policy: Policy, state: kernel.State, action: kernel.Action) -> kernel.Step:
        after, reply, events = STEP(policy, state, action)
        return after, reply, sabotage(action, state, events)

    monkeypatch.setattr(kernel, "step", step)
    assert any(verdict.leak for seed in range(60) if (verdict := smith.check(seed)) is not None)


def test_a_number_always_gives_the_same_module() -> None:
    assert smith.random_guest(5) == smith.random_guest(5)


def test_a_worker_that_dies_is_reported_with_its_number_and_the_next_module_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys\n"
        "for seed in range(int(sys.argv[1]), int(sys.argv[1]) + int(sys.argv[2])):\n"
        "    if seed == 11: os.abort()\n"
        "    print('{\"seed\": %d}' % seed, flush=True)\n"
    )
    monkeypatch.setattr(smith, "__file__", str(script))
    lines = list(smith.hunt(4, first=10, processes=1))
    assert [line["seed"] for line in lines] == [10, 11, 12, 13]
    assert ["leak" in line for line in lines] == [False, True, False, False]
