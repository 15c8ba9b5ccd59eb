"""A leak test from outside: jobs on a running platform, on two data sets, as the network between sees them.

It submits jobs of its own, with keys that it forgets: run it on a platform that is yours. It sees what
anybody on the way to the platform sees: connections, their bytes each way, and when things happen.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chiron.leaktest.relay import Relays
from chiron.leaktest.secrets import DataSecret
from chiron.parties.approval import approve, fetch_offer, fetch_receipt
from chiron.parties.errors import PartyError
from chiron.parties.home import Home
from chiron.parties.platform import Platform, ask_lead
from chiron.parties.query import QueryClient
from chiron.parties.submit import new_job_id, submit_dataset, submit_guest

if TYPE_CHECKING:
    from collections.abc import Callable

    from chiron.guest_api.dataset import Dataset, Schema
    from chiron.policy.types import Policy
    from chiron.training.node import Role
    from chiron.training.submission import JobId
    from enclave import ReferenceValues

REPEATS = 3  # jobs with each of the two data sets
HANDSHAKE_BYTES = 8  # TLS's own noise: an ECDSA signature in DER is 70 to 72 bytes long (RFC 3279, 2.2.3)
APART_S = 0.1  # times count as told apart when all runs of one are later than all of the other by this
POLL_S, PHASE_S = 0.02, 3600.0
QUERIES = 3
QUESTIONS = ("log", "metrics", "receipt")  # refused, or not, by how the job ended
ON_THE_CLOCK = ("Create", "Train", "Seal")  # phases; the others last until the parties have acted
ENDED = ("sealed", "failed", "refused")
Crossed = tuple[str, str, int, int]  # step, way, bytes sent, bytes received


@dataclass(slots=True)
class Seen:
    """One job: bytes by step and connection, seconds of phases and queries, how it ended (declared)."""

    bytes: list[Crossed] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    outcome: str = ""


@dataclass(slots=True)
class Found:
    """What tells the two data sets apart: bytes that differ, times that are apart."""

    runs: int
    differences: list[str]
    first: list[Seen]
    second: list[Seen]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        verdict = "leak" if self.differences else "no difference found"
        seen = {"first": [asdict(s) for s in self.first], "second": [asdict(s) for s in self.second]}
        return {"verdict": verdict, "runs": self.runs, "differences": self.differences, "seen": seen}

    def describe(self) -> str:
        """Return the result in words; never that there is no leak."""
        if self.differences:
            return f"LEAK: the network can tell two data sets apart, in {self.runs} jobs\n" + "\n".join(
                f"> {each}" for each in self.differences
            )
        one = self.first[0]
        crossed = sum(sent + received for _, _, sent, received in one.bytes)
        text = f"no difference found in {self.runs} jobs, half of them on other data\n"
        text += f"each: {len(one.bytes)} connections, {crossed} bytes, ended {one.outcome}\n"
        return text + "\n".join(
            f"{name}: {_range(self.first, name)} against {_range(self.second, name)}" for name in one.seconds
        )


def _range(seen: list[Seen], name: str) -> str:
    low, high = (edge(each.seconds[name] for each in seen) for edge in (min, max))
    return f"{low:.3f} to {high:.3f} s"


class _Relayed(Platform):
    """A platform that is reached through relays."""

    def __init__(self, url: str, relays: Relays) -> None:
        parts = urlsplit(url)
        host, port = relays.to("http", (parts.hostname or "", parts.port or 80))
        super().__init__(f"{parts.scheme}://{host}:{port}")
        self._relays = relays

    def address(self, role: Role) -> tuple[str, int]:
        return self._relays.to(role.value, super().address(role))


def compare_deployment(
    url: str,
    *,
    guest: bytes,
    schema: Schema,
    reference: ReferenceValues,
    policy: Policy,
    repeats: int = REPEATS,
    progress: Callable[[], None] = lambda: None,
) -> Found:
    """Run jobs on two data sets of one schema in turn, and compare what crosses the network.

    Args:
        url: of the platform, which must be the caller's own: it is given 2 x `repeats` jobs.
        guest: the binary.
        schema: of the data it is written for.
        reference: what the platform's enclaves must show.
        policy: theirs.
        repeats: jobs on each data set. Bytes must be equal in all; times may not lie apart.
        progress: called after each job.

    Raises:
        PartyError: the platform is not trusted, refuses, or does not finish.
    """
    rows, held_out = schema.rows_class, schema.held_out_class
    one = DataSecret(rows, held_out, first=0.0, spread=1.0, favoured=0, seed=1).dataset(schema)
    other = DataSecret(0, 0, first=200.0, level=3.0, spread=2.0, favoured=4, seed=2).dataset(schema)
    seen: tuple[list[Seen], list[Seen]] = ([], [])
    for _ in range(repeats):
        for dataset, into in zip((one, other), seen, strict=True):
            with Relays() as relays:
                into.append(_Job(url, relays, reference, policy).run(guest, dataset))
            progress()
    return Found(2 * repeats, [*_other_bytes(*seen), *_times_apart(*seen)], *seen)


class _Job:
    """One job, run by an operator and a user of its own."""

    def __init__(self, url: str, relays: Relays, reference: ReferenceValues, policy: Policy) -> None:
        self._url, self._relays, self._policy = url, relays, policy
        self._direct = Platform(url)
        self._operator, self._user = (Home(Ed25519PrivateKey.generate(), reference, policy) for _ in "ou")
        self._job: JobId = new_job_id()
        self._seen = Seen()

    def run(self, guest: bytes, dataset: Dataset) -> Seen:
        """Return what the network saw."""
        self._step("submit guest", lambda platform: submit_guest(
            platform, self._operator, policy=self._policy, guest=guest, job=self._job, seed=7
        ))  # fmt: skip
        self._step(
            "submit data",
            lambda platform: submit_dataset(platform, self._user, dataset=dataset, job=self._job),
        )
        self._follow({"Approve"})
        self._step("operator approves", lambda platform: self._approve(platform, self._operator))
        self._step("user approves", lambda platform: self._approve(platform, self._user))
        self._follow(set())
        log, metrics = ({"ask": ask, "job": self._job} for ask in QUESTIONS[:2])
        self._step("log", lambda platform: ask_lead(platform, self._operator, log))
        self._step("metrics", lambda platform: ask_lead(platform, self._operator, metrics))
        self._step("receipt", lambda platform: fetch_receipt(platform, self._user, self._job))
        if self._seen.outcome == "sealed":
            for number in range(QUERIES):
                began = time.monotonic()
                self._step(f"query {number}", lambda platform: self._query(platform, dataset))
                self._seen.seconds[f"query {number}"] = time.monotonic() - began
        self._seen.bytes = [
            (each.step, each.way, each.sent, each.received) for each in self._relays.crossings
        ]
        return self._seen

    def _step(self, name: str, act: Callable[[Platform], object]) -> None:
        with self._relays.step(name):
            platform = _Relayed(self._url, self._relays)
            try:
                act(platform)
            except PartyError as error:
                if name not in QUESTIONS:
                    raise
                self._seen.refused.append(f"{name}: {error}")
            finally:
                platform.close()

    def _approve(self, platform: Platform, home: Home) -> None:
        approve(platform, home, fetch_offer(platform, home, self._job, policy=self._policy))

    def _query(self, platform: Platform, dataset: Dataset) -> None:
        rows = np.zeros((1, *dataset.schema.shape), np.float32)  # the same in every run
        with QueryClient(platform, self._user, self._job) as client:
            client.predict(rows)

    def _follow(self, until: set[str]) -> None:
        """Wait for a phase, or the end; note how long each phase took."""
        deadline = time.monotonic() + PHASE_S
        phase, since = "", 0.0
        while time.monotonic() < deadline:
            job = self._direct.job(self._job)
            if job["phase"] != phase:
                if phase in ON_THE_CLOCK:
                    self._seen.seconds[f"phase {phase}"] = job["phase_started"] - since
                phase, since = job["phase"], job["phase_started"]
            if phase in until:
                return
            if job["state"] in ENDED:
                self._seen.outcome = job["state"]
                return
            time.sleep(POLL_S)
        raise PartyError(f"job {self._job} does not end: see `chiron jobs`")


def _other_bytes(first: list[Seen], second: list[Seen]) -> list[str]:
    """Return how runs differ in connections and bytes; where outcomes differ, until they are known."""
    pattern, differences = first[0], []
    for seen in (*first[1:], *second):
        whole = seen.outcome == pattern.outcome
        left, right = (
            [each for each in one.bytes if whole or _before_the_end(each[0])] for one in (pattern, seen)
        )
        apart = [pair for pair in zip(left, right, strict=False) if not _alike(*pair)]
        if apart:
            differences.append(f"(step, way, bytes sent, received): {apart[0][0]} against {apart[0][1]}")
        if len(left) != len(right):
            differences.append(f"{len(left)} against {len(right)} connections")
        if whole and seen.refused != pattern.refused:
            differences.append(f"refusals: {pattern.refused} against {seen.refused}")
    return list(dict.fromkeys(differences))


def _alike(left: Crossed, right: Crossed) -> bool:
    noise = 0 if left[1] == "http" else HANDSHAKE_BYTES
    sizes = zip(left[2:], right[2:], strict=True)
    return left[:2] == right[:2] and all(abs(one - other) <= noise for one, other in sizes)


def _before_the_end(step: str) -> bool:
    return step not in QUESTIONS and not step.startswith("query")


def _times_apart(first: list[Seen], second: list[Seen]) -> list[str]:
    """Return the times by which all runs of one kind are later than all of the other by `APART_S`."""
    apart = []
    for name in first[0].seconds:
        if not all(name in each.seconds for each in (*first, *second)):
            continue  # served in some runs only, which the outcome tells
        left, right = ([each.seconds[name] for each in seen] for seen in (first, second))
        if max(min(right) - max(left), min(left) - max(right)) > APART_S:
            apart.append(f"{name}: {_range(first, name)} against {_range(second, name)}")
    return apart
