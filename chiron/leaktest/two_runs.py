"""One job as an observer sees it: the real guest, host calls, kernel and message sizes, in this process.

Training itself is left out: its frames are counted and sized by public facts, which the exchange's own tests
show. What is declared to be released is the same in every run (pinned), so that everything else must be too;
what a release would have carried is noted beside the trace.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from chiron.guest_api.calls import Flow, HostCalls
from chiron.guest_api.child import run_export
from chiron.guest_api.dataset import as_float
from chiron.guest_api.monitor import Monitor
from chiron.guest_api.transforms import AUGMENT, EXPORTS, INPUT, OUTPUT, Transforms, carried_bytes
from chiron.leaktest.secrets import DataSecret, GuestSecret
from chiron.leaktest.watch import watched
from chiron.policy import kernel
from chiron.serving import protocol
from chiron.training import sealed, wire
from chiron.training.lead import REPLY_BYTES
from wasm_sandbox import StopGuest

if TYPE_CHECKING:
    from chiron.guest_api.dataset import Dataset, Float32Array, Schema
    from chiron.guest_api.limits import LoadedGuest
    from chiron.policy.types import Policy

SEED: Final = bytes(8)
PINNED: Final = {"outcome": 1, "accuracy": 900, "loss": 32, "answer": 0x01FF}
TICKS: Final = 3  # that a phase has at most
SERVED: Final = 2  # answers that are asked for
PUBLIC: Final = ("schema", "seed")  # sources; said here, as a weak policy may call secrets public
_JOB: Final = "0" * 32


@dataclass(frozen=True, slots=True)
class Secrets:
    """All that is secret in a run."""

    data: DataSecret
    guest: GuestSecret = field(default_factory=GuestSecret)


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that an observer sees: when, by which way, what; and the rule that bounds it."""

    phase: str
    tick: int
    way: str
    shown: str
    rule: str


@dataclass(slots=True)
class Trace:
    """One run. `reads`: the guest was granted a secret; `carried`: what releases would have told, by name.

    The secret that a user is not to see is the guest itself: it is `read` where the guest writes something.
    """

    lines: list[Line] = field(default_factory=list)
    reads: bool = False
    reached_create: bool = False
    carried: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tested: a guest, loaded, under a policy, for data of a schema, as one observer sees it."""

    guest: LoadedGuest
    binary: bytes
    policy: Policy
    schema: Schema
    observer: str


class _Altered(HostCalls):
    """The host calls of another guest in this one's place: it ends at some call, or writes other bytes."""

    secret = GuestSecret()
    calls_left = 0
    touched_data = touched_code = False

    def _granted(self, name: str, payload: bytes = b"") -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            self._monitor.fault()
            raise StopGuest("another guest ends here")
        kept = name == "header" or not payload  # the header is declared, and so the same
        super()._granted(name, payload if kept else self.secret.altered(payload))
        source = self._monitor.policy.calls[name].read
        self.touched_data |= source is not None and source not in PUBLIC
        self.touched_code |= not kept


class Run:
    """Runs one job of a subject with some secrets."""

    def __init__(self, subject: Subject, secrets: Secrets) -> None:
        self.subject, self.secrets = subject, secrets
        self.trace = Trace()
        self._clearance = subject.policy.observers[subject.observer]
        state = kernel.initial(subject.policy, rows_class=subject.schema.rows_class, spent={})
        self.monitor = Monitor(subject.policy, state)
        self._tick = 0

    def go(self) -> Trace:
        """Run the job from `Configure` to the first answers."""
        with watched(self._note_way):
            data = self.secrets.data.dataset(self.subject.schema)
            if self._configure():
                self._create(data)
                self._train(data)
                self._serve(data)
        return self.trace

    def _configure(self) -> bool:
        ok = self._export("configure", self.monitor)
        self._line("reply", f"log, {self._reply_bytes()} bytes", "NI-4: replies have one size")
        self._phase()
        self._phase()  # Approve
        self.trace.reached_create = ok and self.monitor.state.phase == "Create"
        return self.trace.reached_create

    def _create(self, data: Dataset) -> None:
        ok = self._export("create", self.monitor, data=data)
        self.trace.carried["outcome"] = int(ok)
        self._messages()
        self._notes = self.monitor.written("notes")
        self._phase()

    def _messages(self) -> None:
        """Note the sizes of what carries the guest's graph and transforms to the other enclaves."""
        header = self.monitor.header
        if header is None:
            return
        size = sealed.graph_message_bytes(header)
        graph = self.monitor.written("graph")
        fits = graph if len(graph) <= size - 8 else b""
        named = tuple(name for name in EXPORTS if name in self.subject.guest.info.exports)
        transforms = Transforms(self.subject.binary, self.monitor.written("notes"), named) if named else None
        room = carried_bytes(len(self.subject.binary))
        sizes = (
            len(wire.pad(fits, size)),
            len(sealed.pack_transforms(transforms, room, state=self.monitor.state)),
        )
        self._line("message", f"to the workers, {sizes[0]} + {sizes[1]} bytes", "CONF-4: one size a header")

    def _train(self, data: Dataset) -> None:
        rows = self._transform(INPUT, as_float(data.rows[:4]))
        for _ in self._ticks():
            self._transform(AUGMENT, rows)
            self._step()
        self._phase()  # Seal

    def _serve(self, data: Dataset) -> None:
        for place in range(SERVED):
            rows = as_float(data.held_out_rows[:1]) * 0 + place  # the query is the user's own, and the same
            self._transform(INPUT, rows)
            even = np.full((1, self.subject.schema.classes), 1 / self.subject.schema.classes, np.float32)
            scores = self._transform(OUTPUT, even)
            self.trace.carried[f"answer {place}"] = protocol.pack_answer(scores[0])
            answer = protocol.unpack_answer(PINNED["answer"])
            body = protocol.padded(
                protocol.inference_body(_JOB, [answer]), self.subject.policy.serving.answer_bytes
            )
            self._line("answer", f"{len(body)} bytes", "SERVE-1: answers have one size")
            self._step()

    def _transform(self, export: str, rows: Float32Array) -> Float32Array:
        """Run a transform on a state of its own, as the guest's process does; the rows where it fails."""
        if export not in self.subject.guest.info.exports:
            return rows
        monitor = Monitor(self.subject.policy, self.monitor.state)
        raw = np.ascontiguousarray(rows, dtype="<f4")
        flow = Flow(memoryview(raw.tobytes()), raw[0].nbytes, self._notes)
        ok = self._export(export, monitor, flow=flow)
        given = monitor.written("transformed")
        if not ok or len(given) != raw.nbytes:
            return rows
        return np.frombuffer(given, dtype="<f4").reshape(raw.shape)

    def _export(
        self, export: str, monitor: Monitor, *, data: Dataset | None = None, flow: Flow | None = None
    ) -> bool:
        calls = _Altered(monitor, schema=self.subject.schema, seed=SEED, dataset=data, flow=flow)
        calls.secret = self.secrets.guest
        calls.calls_left = self.secrets.guest.ends_at if export != "configure" else 0
        answer = run_export(self.subject.guest, monitor, calls, export=export)
        self.trace.reads |= calls.touched_code if self.subject.observer == "user" else calls.touched_data
        return bool(answer["ending"] == "returned" and answer["value"] == 0)

    def _reply_bytes(self) -> int:
        text = self.monitor.written("operator_log").decode(errors="replace")
        return len(wire.filled({"ok": text}, REPLY_BYTES["log"]))

    def _phase(self) -> None:
        for _ in self._ticks():
            self._step()

    def _ticks(self) -> range:
        """Shorten a long phase, whose ticks are alike, and count its ticks.

        What leaves at a tick is the phase's; all ticks are gone through by the proof (`make prove`).
        """
        count = min(self.monitor.state.ticks_left, TICKS)
        self.monitor.state = replace(self.monitor.state, ticks_left=count)
        return range(count)

    def _step(self) -> None:
        """End a slot: note its tick, and what leaves then."""
        phase = self.monitor.state.phase
        events = self.monitor.tick(PINNED)
        self._tick += 1
        now = self.monitor.state.phase
        self._line("clock", f"{phase}, then {now}", "NI-4: phases advance on the clock alone")
        for event in events:
            self._event(event)

    def _event(self, event: kernel.Event) -> None:
        if isinstance(event, kernel.Frame):
            what = _shown(event.content.data) if event.label.flows_to(self._clearance) else "sealed"
            self._line(
                f"frame {event.sink}", f"{event.size_bytes} bytes, {what}", f"NI-3, [sinks.{event.sink}]"
            )
        elif isinstance(event, kernel.Release):
            if event.to.flows_to(self._clearance):
                self._line(f"release {event.name}", str(event.value), f"NI-5, [declassify.{event.name}]")
        elif isinstance(event, kernel.Stopped):
            self._line("end", event.reason.name, "NI-4: a job ends early for public reasons alone")
        else:
            self._line("ledger", str(dict(event.bits)), "NI-9, [ledger_cap_bits]")

    def _line(self, way: str, shown: str, rule: str) -> None:
        self.trace.lines.append(Line(self.monitor.state.phase, self._tick, way, shown, rule))

    def _note_way(self, way: str, what: str) -> None:
        self._line(way, what[:200], "NI-4: nothing leaves beside frames and releases")


def is_created(subject: Subject) -> bool:
    """Tell whether a job of the guest on data of this schema comes to `create`."""
    return Run(subject, Secrets(DataSecret(1, 1))).go().reached_create


def _shown(data: bytes) -> str:
    """Return content that an observer sees, in few characters."""
    return f"{len(data)} written: {data[:24]!r}"
