"""Every admitted plan builds an optimiser; without a plan there is one that changes nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chiron.guest_api.plan import OPTIMISERS, PLAN, SCHEDULES, Plan, parse_plan
from chiron.training import exchange, server
from chiron.training.exchange import parse_plan_message
from chiron.training.wire import canonical, pad

PLANS = st.builds(
    Plan,
    optimiser=st.sampled_from(OPTIMISERS),
    learning_rate=st.floats(0, 10, exclude_min=True, width=32),
    momentum=st.floats(0, 1, exclude_max=True, width=32),
    weight_decay=st.floats(0, 1, width=32),
    schedule=st.sampled_from(SCHEDULES),
    warmup_steps=st.integers(0, (1 << 32) - 1),
)


@given(plan=PLANS, steps=st.integers(1, 1000))
def test_every_plan_that_is_admitted_builds_an_optimiser_that_steps(plan: Plan, steps: int) -> None:
    fields = (
        1, OPTIMISERS.index(plan.optimiser), plan.learning_rate, plan.momentum, plan.weight_decay,
        SCHEDULES.index(plan.schedule), plan.warmup_steps, 0,
    )  # fmt: skip
    admitted = parse_plan(PLAN.pack(*fields))
    assert admitted == plan
    assert parse_plan_message(pad(canonical(exchange._of_server(plan)), 256)) == plan
    optimiser = server._optimiser(plan, 4, steps=steps)
    parameters = np.ones(4, np.float32)
    optimiser.apply(parameters, np.ones(4, np.float32), step=0)
    assert np.isfinite(parameters).all()


def test_without_a_plan_there_is_an_optimiser_that_changes_nothing() -> None:
    assert parse_plan_message(pad(b"", 256)) is None
    parameters = np.ones(4, np.float32)
    server._optimiser(None, 4, steps=1).apply(parameters, np.ones(4, np.float32), step=0)
    assert parameters.tolist() == [1, 1, 1, 1]
