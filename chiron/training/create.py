"""Runs the guest's two exports in the lead: `configure` before taint, `create` after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiron.graph import AdmittedGraph, GraphError, GraphLimits, TensorSpec, admit
from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.limits import compile_guest
from chiron.guest_api.plan import Plan, parse_plan
from chiron.guest_api.process import GuestProcess, GuestReport
from chiron.guest_api.releaser import Releaser
from chiron.guest_api.transforms import EXPORTS, Transforms
from chiron.policy import kernel
from chiron.training.sealed import graph_message_bytes
from wasm_sandbox import GuestRefusedError

if TYPE_CHECKING:
    from chiron.guest_api.dataset import Schema
    from chiron.guest_api.limits import CompiledGuest
    from chiron.guest_api.monitor import Monitor
    from chiron.policy.header import Header
    from chiron.training.inputs import Inputs
    from chiron.training.node import Node


@dataclass(frozen=True, slots=True)
class Network:
    """What a guest created, admitted; `graph` is as it came, for the workers to admit again."""

    graph: bytes
    admitted: AdmittedGraph
    plan: Plan
    transforms: Transforms | None = None


def configure(node: Node, inputs: Inputs, monitor: Monitor) -> tuple[str, CompiledGuest | None]:
    """Compile the guest, run `configure` on the schema alone and end its slot.

    Returns what the operator may read of it, and the compiled guest. Afterwards `monitor.header` is the
    public header, or None where the guest was refused, failed or declared none (the job has ended then).
    """
    problem, compiled = "", None
    try:
        compiled = compile_guest(node.policy, inputs.guest)
        report = run_configure(node.policy_bytes, compiled, inputs.schema, monitor=monitor, seed=inputs.seed)
        problem = "" if report.ok else report.explain("configure")
    except GuestRefusedError as error:
        monitor.fault()
        problem = str(error)
    written = [e.content.data for e in monitor.finish_phase() if isinstance(e, kernel.Frame)]
    text = b"".join(written).decode(errors="replace")
    if monitor.header is None and not problem:
        problem = "configure() declared no header: call header() with one entry of each menu"
    return (f"{text}\nrefused: {problem}".strip() if problem else text), compiled


def run_configure(
    policy_bytes: bytes, guest: CompiledGuest, schema: Schema, *, monitor: Monitor, seed: bytes
) -> GuestReport:
    """Run `configure` in a process that holds no data set."""
    deadline_ms = monitor.policy.limits.configure_ms
    with GuestProcess(guest, policy=policy_bytes, schema=schema, dataset=None) as process:
        return process.run("configure", monitor, seed=seed, deadline_ms=deadline_ms)


def create(
    node: Node, inputs: Inputs, monitor: Monitor, *, guest: CompiledGuest
) -> tuple[Network | None, Transforms | None]:
    """Run `create` on the data set in a slot of fixed length; return the network and the transforms.

    There is no network where it failed, which nobody may notice: a guest that has transforms has them still,
    for their processes show. The guest has half of the slot; admission of its graph has the rest. This
    returns when the slot ends. A process of its own, the releaser, keeps the time of both.
    """
    header = monitor.header
    if header is None:
        raise GuestApiError("create runs only after a header was declared")
    with Releaser() as releaser:
        with GuestProcess(
            guest,
            policy=node.policy_bytes,
            schema=inputs.schema,
            dataset=inputs.plaintext,
            statistics=inputs.statistics,
        ) as process:
            releaser.start(process.pid, slot_ms=header.create_ms)
            # the releaser kills it at half slot; this deadline counts where the platform killed the releaser
            report = process.run("create", monitor, seed=inputs.seed, deadline_ms=header.create_ms)
            releaser.wait_for_half()  # the host sees processes end: at half slot, whatever the guest did
        transforms = transforms_of(monitor, inputs.guest, process.exports)  # TRAIN-4: also where it failed
        try:
            network = admit_network(monitor, header, inputs.schema) if report.ok else None
            network = None if network is None else replace(network, transforms=transforms)
        except (GraphError, GuestApiError):
            network = None  # deferred: it shows as the outcome at the end of the whole schedule, in a dry run
        releaser.wait_for_end()  # TRAIN-4: not before the slot's end
    return network, transforms


def transforms_of(monitor: Monitor, guest: bytes, exports: frozenset[str]) -> Transforms | None:
    """Return the guest's transforms with what `create` kept for them, or None where it exports none."""
    named = tuple(name for name in EXPORTS if name in exports)
    return Transforms(guest, monitor.written("notes"), named) if named else None


def admit_network(monitor: Monitor, header: Header, schema: Schema) -> Network:
    """Check what the guest wrote to its graph and plan sinks.

    Raises:
        GraphError: the graph is refused; names node, operator and rule.
        GuestApiError: the plan or the graph is missing or malformed.
    """
    graph = monitor.written("graph")
    limits = graph_limits(header)
    if len(graph) > limits.max_bytes:
        raise GuestApiError(
            f"the graph has {len(graph)} bytes, over {limits.max_bytes}: declare more parameters"
        )
    plan = parse_plan(monitor.written("plan"))
    plan.augmentation.check(schema.shape)
    return Network(graph, admit_graph(graph, header, schema), plan)


def graph_limits(header: Header) -> GraphLimits:
    """Return what the public header allows a graph."""
    return GraphLimits(
        max_bytes=graph_message_bytes(header) - 8,
        max_parameters=header.parameters,
        max_batch=header.batch,
    )


def admit_graph(graph: bytes, header: Header, schema: Schema) -> AdmittedGraph:
    """Admit a graph for this header and schema.

    Raises:
        GraphError: see chiron.graph.admit.
    """
    return admit(graph, TensorSpec(schema.shape, schema.classes), limits=graph_limits(header))
