"""Runs a guest on the operator's own data with everything visible: no enclave, no secrecy, no budget."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph import GraphError, open_engine
from chiron.guest_api.chunks import encode_dataset
from chiron.guest_api.dataset import as_float
from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.limits import compile_guest
from chiron.guest_api.monitor import Monitor
from chiron.guest_api.process import GuestProcess
from chiron.guest_api.transforms import INPUT, OUTPUT, Transformer
from chiron.parties.errors import PartyError
from chiron.policy import kernel
from chiron.policy.loader import parse_policy
from chiron.training.batches import batches_of
from chiron.training.create import admit_network, run_configure, transforms_of
from chiron.training.transformed import transformed
from chiron.training.worker import noise_of
from wasm_sandbox import GuestRefusedError

if TYPE_CHECKING:
    from chiron.graph import Engine
    from chiron.guest_api.dataset import Dataset
    from chiron.guest_api.limits import CompiledGuest
    from chiron.guest_api.plan import Plan
    from chiron.policy.header import Header
    from chiron.training.batches import Batches
    from chiron.training.transformed import Transformed

SEED_BYTES = 8
DEADLINE_MS = 60_000  # of one transform


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a guest did: its header, plan and size, fuel and time of each export, losses of some steps."""

    header: Header
    plan: Plan
    parameters: int
    log: str
    configure_fuel: int
    create_fuel: int
    create_ms: float
    step_ms: float
    losses: tuple[float, ...]


def dry_run(guest: bytes, dataset: Dataset, *, policy_bytes: bytes, seed: int, steps: int) -> DryRun:
    """Run both exports and then some training steps of one worker.

    Args:
        guest: the WebAssembly binary.
        dataset: the operator's own or public data.
        policy_bytes: the policy file.
        seed: the job's public seed.
        steps: how many training steps to try.

    Raises:
        PartyError: the guest is refused, fails, or emits what would be refused; the text says what and why.
    """
    policy = parse_policy(policy_bytes)
    monitor = Monitor(policy, kernel.initial(policy, rows_class=dataset.schema.rows_class, spent={}))
    raw_seed = seed.to_bytes(SEED_BYTES, "little")
    try:
        compiled = compile_guest(policy, guest, lines=True)  # SAND-13: of enclaves, none asks for lines
        first = run_configure(policy_bytes, compiled, dataset.schema, monitor=monitor, seed=raw_seed)
        if not first.ok:
            raise PartyError(first.explain("configure"))
        frames = [event.content.data for event in monitor.finish_phase() if isinstance(event, kernel.Frame)]
        header = monitor.header
        if header is None:
            raise PartyError("configure() declared no header: call header() with one entry of each menu")
        monitor.finish_phase()
        return _create(
            compiled, dataset, monitor=monitor, policy_bytes=policy_bytes, seed=seed, steps=steps,
            header=header,
            so_far=(b"".join(frames).decode(errors="replace"), first.fuel),
        )  # fmt: skip
    except (GuestRefusedError, GuestApiError, GraphError) as error:
        raise PartyError(f"the guest is refused: {error}") from error


def _create(
    guest: CompiledGuest,
    dataset: Dataset,
    *,
    monitor: Monitor,
    policy_bytes: bytes,
    seed: int,
    steps: int,
    header: Header,
    so_far: tuple[str, int],
) -> DryRun:
    encoded = encode_dataset(dataset)
    with GuestProcess(guest, policy=policy_bytes, schema=dataset.schema, dataset=encoded) as process:
        began = time.monotonic()
        report = process.run(
            "create", monitor, seed=seed.to_bytes(SEED_BYTES, "little"), deadline_ms=header.create_ms // 2
        )
        create_ms = 1000 * (time.monotonic() - began)
    if not report.ok:
        raise PartyError(report.explain("create"))
    network = admit_network(monitor, header, dataset.schema)
    transforms = transforms_of(monitor, guest.binary, process.exports)
    monitor.finish_phase()
    engine = open_engine(network.admitted, batch=header.batch, threads=1)
    engine.parameters[:] = network.admitted.initial
    began = time.monotonic()
    with transformed(
        batches_of(dataset, header, seed=seed, index=0),
        transforms,
        policy=policy_bytes,
        schema=dataset.schema,
        state=monitor.state,
        deadline_ms=DEADLINE_MS,
        compiled=guest,
        augmentation=network.plan.augmentation,
    ) as batches:
        losses = _descend(engine, batches, rate=network.plan.learning_rate, seed=seed, steps=steps)
    step_ms = 1000 * (time.monotonic() - began) / max(steps, 1)
    if transforms is not None:
        with Transformer(
            transforms, policy=policy_bytes, schema=dataset.schema, compiled=guest
        ) as transformer:
            _try_query(transformer, dataset, replace(monitor.state, phase="Serve"))
    log, fuel = so_far
    return DryRun(
        header, network.plan, network.admitted.parameter_count, log, fuel, report.fuel, create_ms, step_ms,
        tuple(losses),
    )  # fmt: skip


def _descend(
    engine: Engine, batches: Batches | Transformed, *, rate: float, seed: int, steps: int
) -> list[float]:
    """Train by plain descent, a trial of the network and not of the plan; return each step's loss."""
    losses = []
    for step in range(steps):
        losses.append(engine.run(*batches(step), noise=noise_of(seed, step, 0)))
        np.subtract(engine.parameters, rate * engine.gradient, out=engine.parameters)
    return losses


def _try_query(transformer: Transformer, dataset: Dataset, state: kernel.State) -> None:
    """Put a row and even scores through the transforms as a query would; TransformError says what fails."""
    even = np.full((1, dataset.schema.classes), 1 / dataset.schema.classes, dtype=np.float32)
    for export, rows in ((INPUT, as_float(dataset.rows[:1])), (OUTPUT, even)):
        transformer.apply(export, rows, state=state, deadline_ms=DEADLINE_MS)
