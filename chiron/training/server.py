"""The parameter-server enclave: collects a job's workers, trains with them, hands the lead the result."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from chiron.training.agreement import Offer
from chiron.training.errors import TrainingError
from chiron.training.exchange import PLAN_BYTES, SUMMARY_BYTES, parameter_message_bytes, parse_plan_message
from chiron.training.node import HANDSHAKE_S, Role, peer_role
from chiron.training.schedule import frame_format, schedule_of
from chiron.training.wire import canonical, pad, receive_map, send_map, unpad
from enclave import ChannelError
from paramserver import (
    SGD,
    AdamW,
    DeferredFaultError,
    ExchangeError,
    LearningRate,
    MonotonicClock,
    Optimiser,
    RateShape,
    Result,
    serve,
)

if TYPE_CHECKING:
    from chiron.guest_api.dataset import Float32Array
    from chiron.guest_api.plan import Plan
    from chiron.training.node import Node
    from chiron.training.submission import JobId
    from enclave import Channel

_SHAPES = {"constant": RateShape.CONSTANT, "cosine": RateShape.COSINE}


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker's connection; `ended` is set when its job is over and the connection may close."""

    channel: Channel
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class ServerNode:
    """Meets the lead and the workers of each job. One thread a connection."""

    node: Node
    joined: dict[tuple[JobId, int], Joined] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def handle(self, channel: Channel) -> None:
        """Serve one connection: the lead's drives a job, a worker's joins it and stays until it ends."""
        hello = receive_map(channel)
        match peer_role(channel), hello.get("do"):
            case Role.LEAD, "prepare":
                self._train(channel, Offer.from_dict(hello["offer"]))
            case Role.WORKER, "join":
                worker = Joined(channel)
                with self.changed:
                    self.joined[hello["job"], hello["index"]] = worker
                    self.changed.notify_all()
                send_map(channel, {"joined": True})
                worker.ended.wait()
            case _:
                raise TrainingError("only the lead and its workers talk to a parameter server")

    def _train(self, lead: Channel, offer: Offer) -> None:
        send_map(lead, {"ready": True})
        try:
            plan = parse_plan_message(lead.recv_exactly(PLAN_BYTES))
            given = unpad(lead.recv_exactly(parameter_message_bytes(offer.header)))
            initial = np.zeros(offer.header.parameters, dtype=np.float32)
            initial[: len(given) // 4] = np.frombuffer(given, dtype="<f4")
            channels = [worker.channel for worker in self._workers(offer)]
            result = _serve(channels, initial, plan=plan, offer=offer)
        except ExchangeError as error:
            send_map(lead, {"lost": str(error)})
            return
        finally:
            self._dismiss(offer)
        send_map(lead, {"done": True})
        _send_result(lead, offer, result)

    def _workers(self, offer: Offer) -> list[Joined]:
        """Return the job's workers in their order; each has joined before the lead sends the plan."""
        wanted = [(offer.job, index) for index in range(offer.header.workers)]
        with self.changed:
            if not self.changed.wait_for(lambda: all(key in self.joined for key in wanted), HANDSHAKE_S):
                raise TrainingError("a worker did not join its parameter server")
            return [self.joined[key] for key in wanted]

    def _dismiss(self, offer: Offer) -> None:
        """Let the connections of a job's workers close."""
        with self.changed:
            for index in range(offer.header.workers):
                worker = self.joined.pop((offer.job, index), None)
                if worker is not None:
                    worker.ended.set()


def _serve(
    channels: list[Channel], initial: Float32Array, *, plan: Plan | None, offer: Offer
) -> Result | None:
    """Run the whole schedule; None where the optimiser failed or there was nothing to train."""
    schedule = schedule_of(offer)
    try:
        return serve(
            channels,
            initial,
            optimiser=_optimiser(plan, initial.size, steps=schedule.steps),
            schedule=schedule,
            clock=MonotonicClock(),
            frame=frame_format(offer),
            on_slot=lambda _: None,
        )
    except DeferredFaultError:
        return None  # it shows as the job's outcome, when the lead publishes that


def _send_result(lead: Channel, offer: Offer, result: Result | None) -> None:
    steps = schedule_of(offer).steps
    complete = result is not None and result.steps_done == steps and not result.diverged
    losses = [] if result is None else [float(loss) for loss in result.epoch_losses]
    parameters = b"" if result is None else result.parameters.astype("<f4").tobytes()
    summary = pad(canonical({"losses": losses, "complete": complete}), SUMMARY_BYTES)
    try:
        lead.send(summary + pad(parameters, parameter_message_bytes(offer.header)))
    except ChannelError as error:
        raise TrainingError("the lead was gone when training ended") from error


def _optimiser(plan: Plan | None, parameters: int, *, steps: int) -> Optimiser:
    """Build the plan's optimiser; without a plan no gradient will come, and any does."""
    if plan is None:
        return SGD(parameters, rate=LearningRate(0.0, RateShape.CONSTANT, warmup_steps=0, steps=steps))
    warmup = min(plan.warmup_steps, steps - 1)  # the plan is secret: a bad one must not show here
    rate = LearningRate(plan.learning_rate, _SHAPES[plan.schedule], warmup_steps=warmup, steps=steps)
    if plan.optimiser == "adamw":
        return AdamW(parameters, rate=rate, weight_decay=plan.weight_decay)
    return SGD(parameters, rate=rate, momentum=plan.momentum, weight_decay=plan.weight_decay)
