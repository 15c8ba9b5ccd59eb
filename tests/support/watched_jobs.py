"""Whole jobs under observation, in a deployment whose roles are threads of this process."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import deployments
import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import POLICY, VALUES, Deployment, small_dataset
from obedient import HEADER, PLACE, Does, obedient_guest
from observations import Recorder, unrecorded

from chiron.launch import local
from chiron.launch.api import make_api
from chiron.launch.store import JobStore
from chiron.parties import approval
from chiron.parties.errors import PartyError
from chiron.parties.home import Home
from chiron.parties.platform import ask_lead
from chiron.parties.query import QueryClient
from chiron.parties.submit import submit_dataset, submit_guest
from chiron.policy import header
from chiron.training.node import Role
from chiron.training.results import ACCURACY_STEPS, LOSS_STEP, LOSS_TOP
from chiron.training.submission import JobId
from paramserver.schedule import START_LEAD_MS

if TYPE_CHECKING:
    from pathlib import Path

    from observations import Sent

    from chiron.guest_api.dataset import Dataset
    from enclave.transport import Transport

EPOCHS, SLOT_S = HEADER[0], HEADER[4] / 1000
PATIENT_MS = 5000  # spare slots in milliseconds: many jobs at once build their engines slowly
FRAME_BYTES = 32 + 4 * HEADER[3]
JOB = JobId("5" * 32)
QUERY = np.linspace(-6, 6, 3 * VALUES, dtype=np.float32).reshape(3, VALUES)


@dataclass(frozen=True, slots=True)
class Case:
    """One run: what the data and the guest tell the guest to do, the data's seed, what the platform does.

    `noise` is how much of it the held-out rows have, which lowers the accuracy; `log` is what the guest tells
    its operator. `cut_at` is the number of frames after which the platform cuts a worker's connection.
    """

    data: Does = Does.GOOD
    guest: int = 0
    seed: int = 1
    rows: int = 60
    noise: float = 0.0
    log: str = ""
    augments: bool = False
    cut_at: int | None = None

    def dataset(self) -> Dataset:
        """Return the user's secret."""
        dataset = small_dataset(self.rows, seed=self.seed)
        dataset.rows[0, PLACE] = self.data.value
        random = np.random.default_rng(self.seed)
        dataset.held_out_rows[:] += self.noise * random.normal(size=dataset.held_out_rows.shape)
        return dataset


@dataclass(slots=True)
class Observation:
    """What left, by way; and what was declared to leave, which the ways do not hold."""

    ways: dict[str, list[Any]]
    declared: dict[str, Any] = field(default_factory=dict)

    def seen_by(self, observer: str) -> dict[str, list[Any]]:
        """Return the ways that one observer sees: its own, and all that the platform sees."""
        others = {"operator:", "user:"} - {f"{observer}:"}
        return {way: seen for way, seen in self.ways.items() if way.split(" ")[0] not in others}

    def until_the_outcome(self, observer: str) -> dict[str, list[Any]]:
        """Return the same without what follows from the released outcome: serving, and the model's file."""
        return {
            way: [each for each in seen if not any(word in str(each) for word in (".model", ".budget"))]
            for way, seen in self.seen_by(observer).items()
            if "query" not in way and way not in FOLLOWING
        }

    def until_the_cut(self, observer: str) -> dict[str, list[Any]]:
        """Return the same without the frames of the connections that the platform did not cut itself.

        How far they come before their ends hear of it is a matter of milliseconds.
        """
        return {way: seen for way, seen in self.seen_by(observer).items() if UNCUT not in way}


UNCUT = "network to server, connection 3"
FOLLOWING = {"events after the outcome", "launcher tells", "user: answers", "connections"}


def observe_all(folder: Path, cases: dict[str, Case]) -> dict[str, Observation]:
    """Run cases at once, each in a deployment of its own, and return what each let out."""
    places = {name: folder / str(index) for index, name in enumerate(cases)}
    for place in places.values():
        place.mkdir(parents=True)
    patient = mock.patch.object(header, "SPARE_MS", PATIENT_MS)
    with patient, ThreadPoolExecutor(len(cases)) as pool:
        running = {name: pool.submit(observe, places[name], case) for name, case in cases.items()}
        return {name: future.result() for name, future in running.items()}


def observe(folder: Path, case: Case) -> Observation:
    """Run one job to its end and return what it let out. `edges` must be watched."""
    recorder = Recorder({str(folder): "<folder>"})
    with recorder.running(), deployments.deployment(folder) as running:
        watch = _Watch(recorder, running, case)
        if case.cut_at is not None:
            recorder.on_send = watch.cut
        declared = watch.run()
    running.query.close()  # no longer watched: the process that ran transforms ends with its enclave
    return Observation(_finished(recorder, watch), declared)


class _Watch:
    """One run: the parties' steps, and what each of them sees."""

    def __init__(self, recorder: Recorder, running: Deployment, case: Case) -> None:
        self.recorder, self.running, self.case = recorder, running, case
        keys = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
        self.operator, self.user = (Home(key, running.reference, POLICY) for key in keys)
        self._frames: Counter[int] = Counter()

    def run(self) -> dict[str, Any]:
        platform = self.running.platform()
        case = self.case
        binary = obedient_guest(case.guest, log=case.log, augments=case.augments)
        with unrecorded():  # what parties do on their own machines
            submit_guest(platform, self.operator, policy=POLICY, guest=binary, job=JOB, seed=7)
            submit_dataset(platform, self.user, dataset=case.dataset(), job=JOB)
        self.running.attach(JOB)
        self.running.events.wait_for(event="phase", job=JOB, phase="Approve")
        for home in (self.operator, self.user):
            offer = approval.fetch_offer(platform, home, JOB, policy=POLICY)
            approval.approve(platform, home, offer)
        end = self.running.events.wait_for_end(JOB)
        declared = self._ask(end.get("outcome") == "sealed")
        self._events()
        self._store()
        self._disk()
        return declared | {"outcome": end.get("outcome", "stopped")}

    def cut(self, transport: Transport, sent: Sent) -> None:
        """Be a platform that cuts a worker's connection after some frames."""
        server = self.running.addresses[Role.SERVER][1]
        if sent.size == FRAME_BYTES and sent.source == server:
            self._frames[sent.target] += 1
            clients = dict.fromkeys(each.source for each in self.recorder.network if each.target == server)
            if self._frames[sent.target] == self.case.cut_at and sent.target == list(clients)[1]:
                transport._socket.shutdown(
                    socket.SHUT_RDWR
                )  # the first client is the lead, then comes worker 0

    def _ask(self, sealed: bool) -> dict[str, Any]:  # noqa: FBT001
        """Ask what parties may ask, and what they may not; return the declared releases."""
        declared: dict[str, Any] = {}
        for who, home in (("operator", self.operator), ("user", self.user)):
            for question in ("log", "metrics", "offer", "nonsense", "receipt"):
                told = self._told(home, question)
                if question == "metrics" and isinstance(told, dict):
                    declared["metrics"] = _within_width(told)
                    told = sorted(told)
                self.recorder.note(f"{who}: {question}", told)
        if sealed:
            declared["answers"] = self._query()
        return declared

    def _told(self, home: Home, question: str) -> object:
        try:
            if question == "receipt":
                receipt, stated = approval.fetch_receipt(self.running.platform(), home, JOB)
                return {"size": len(receipt.to_bytes())} | {
                    key: len(value) if isinstance(value, bytes) else value
                    for key, value in stated.items()
                    if key not in {"outcome", "evidence"}
                }
            return ask_lead(self.running.platform(), home, {"ask": question, "job": JOB})
        except PartyError as error:
            return str(error)

    def _query(self) -> list[Any]:
        """Ask the model as its user may, also wrongly; return the answers, which are declared."""
        infer = f"/v2/models/{JOB}/infer"
        asked = {
            "three rows": ("POST", infer, _tensor(QUERY)),
            "metadata": ("GET", f"/v2/models/{JOB}", b""),
            "not finite": ("POST", infer, _tensor(np.full((1, VALUES), np.nan, dtype=np.float32))),
            "too many": ("POST", infer, _tensor(np.zeros((17, VALUES), dtype=np.float32))),
            "another path": ("GET", "/v1", b""),
        }
        answers: list[Any] = []
        with QueryClient(self.running.platform(), self.user, JOB) as client:
            for name, (method, path, body) in asked.items():
                status, raw = client._exchange(method, path, body)
                answer = json.loads(raw)
                if "outputs" in answer and name == "three rows":
                    answers += [output.pop("data") for output in answer["outputs"]]
                seen = {"asked": name, "status": status, "size": len(raw), "answer": answer}
                self.recorder.note("user: answers", seen)
        return answers

    def _events(self) -> None:
        """Note the platform's events, and that none came before its time."""
        way, due = "events", 0.0
        for at, event in self.running.events._seen:
            if "job" not in event:
                self.recorder.note("events of no job", event)
                continue
            shown = {key: value for key, value in event.items() if key != "outcome"}
            if event["event"] in {"ended", "serving", "stopped"}:
                way = "events" if event["event"] == "stopped" else "events after the outcome"
                shown |= {"stop": event.get("reason")}
            self.recorder.note(way, shown | {"early": at < due - 0.001})
            planned = event.get("planned_ms", 0) if event.get("phase") in {"Create", "Train", "Seal"} else 0
            due = at + planned / 1000

    def _store(self) -> None:
        """Have the launcher keep its books on the events; note its rows, its answers and its files."""
        home = self.running.folder / "books"
        home.mkdir()
        launcher = local.Deployment(home, 2, tell=lambda event: self.recorder.note("launcher tells", event))
        launcher._store = JobStore(home / local.DATABASE)
        launcher.store.add(JOB)
        for _, event in self.running.events._seen:
            launcher._follow(event)
        row = launcher.store.get(JOB) or {}
        self.recorder.note("job store", {key: row[key] for key in row if key not in {"state", "reason"}})
        self.recorder.note("job store", sorted(path.name for path in home.iterdir()))
        api = make_api(launcher.store, home, describe=dict, attach=lambda _: None)
        status, body = asyncio.run(_get(api, f"/v1/jobs/{JOB}"))
        shown = {key: value for key, value in body.items() if key not in {"state", "reason"}}
        self.recorder.note("job store", {"status": status, **shown})
        launcher.store.close()

    def _disk(self) -> None:
        for path in sorted(self.running.folder.glob("*")):
            if path.is_file():
                status = path.stat()
                self.recorder.note("disk", f"{path.name}: {status.st_size} bytes, mode {status.st_mode:o}")


async def _get(api: Any, path: str) -> tuple[int, dict[str, Any]]:  # noqa: ANN401  an application
    transport = httpx.ASGITransport(app=api)
    async with httpx.AsyncClient(transport=transport, base_url="http://platform.invalid") as client:
        answer = await client.get(path)
        return answer.status_code, answer.json()


def _tensor(rows: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def _within_width(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics once they are known to have no more than their declared bits."""
    accuracy, losses = metrics["accuracy"] * ACCURACY_STEPS, [each / LOSS_STEP for each in metrics["losses"]]
    widths = {
        "one accuracy of 1,001 values": np.isclose(accuracy, round(accuracy), atol=1e-9)
        and 0 <= accuracy <= 1000,
        "one loss of 256 values an epoch": len(losses) == EPOCHS
        and all(each == round(each) and 0 <= each <= LOSS_TOP for each in losses),
        "nothing besides": set(metrics) == {"succeeded", "accuracy", "losses"},
    }
    wrong = [name for name, holds in widths.items() if not holds]
    if wrong:
        raise AssertionError(f"operator: metrics carry more than their declared bits: not {', '.join(wrong)}")
    return metrics


def _finished(recorder: Recorder, watch: _Watch) -> dict[str, list[Any]]:
    """Return the ways with the network's, connection by connection; what threads do at once is sorted."""
    ways = {way: seen if way.split(":")[0] in {"operator", "user", "events"} else _sorted(seen)
            for way, seen in recorder.ways.items()}  # fmt: skip
    roles = {address[1]: role.value for role, address in watch.running.addresses.items()}
    for number, address in enumerate(watch.running.lead.cell.workers):
        roles[address[1]] = f"worker-{number}"
    streams: dict[tuple[int, int, int], list[Sent]] = {}
    for sent in recorder.network:
        client, role = (sent.source, sent.target) if sent.target in roles else (sent.target, sent.source)
        streams.setdefault((client, role, sent.turn), []).append(sent)
    met: Counter[str] = Counter()
    for (_, port, _), stream in streams.items():
        met[roles[port]] += 1
        way = f"network to {roles[port]}, connection {met[roles[port]]}"
        ways[way] = [f"{'from' if sent.source == port else 'to'} it {sent.size} bytes" for sent in stream]
        frames = [sent for sent in stream if sent.size == FRAME_BYTES]
        if frames:
            ways[f"{way}, frames before their time"] = _early(frames, port)
    return ways


def _early(frames: list[Sent], server: int) -> list[str]:
    """Return the frames of one connection that left before their slot; the first is START."""
    start, found = frames[0].at + START_LEAD_MS / 1000, []
    for mine in (True, False):
        for slot, sent in enumerate([f for f in frames[1:] if (f.source == server) is mine]):
            if sent.at < start + (slot + mine / 2) * SLOT_S - 0.001:
                found.append(f"slot {slot}")
    return found


def _sorted(seen: list[Any]) -> list[Any]:
    return sorted(seen, key=lambda each: json.dumps(each, sort_keys=True, default=str))
