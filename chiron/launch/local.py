"""The local launcher: one deployment of enclave processes on this machine, and the platform's interface."""

from __future__ import annotations

import fcntl
import queue
import socket
import threading
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import uvicorn

from chiron.launch import store as states
from chiron.launch.api import make_api
from chiron.launch.errors import LaunchError
from chiron.launch.processes import EnclaveProcess
from chiron.launch.store import JobStore
from chiron.policy.kernel import StopReason
from chiron.policy.loader import policy_bytes
from chiron.training.node import Role
from enclave import create_simulated_cpu

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from chiron.training.submission import JobId

START_S = 60.0
CPU_FOLDER, DATABASE, LOCK_FILE = "simulated-cpu", "jobs.sqlite", "lock"
INTERRUPTED = "the platform was stopped or lost a process while the job ran: submit it again"
NO_HEADER = "the guest declared no public header: its operator sees why with `chiron operator log`"
NOT_FINISHED = "training was not finished: the operator sees why with `chiron dry-run` on sample data"
ENDINGS = {
    "sealed": (states.SEALED, ""),
    "failed": (states.FAILED, NOT_FINISHED),
    "no-header": (states.REFUSED, NO_HEADER),
}
# Not a SimpleQueue: in CPython 3.11 its `get(timeout)` waits for ever when a signal comes in the last moment.
Events = queue.Queue[tuple[str, dict[str, Any] | None]]


@dataclass(slots=True)
class Deployment:
    """A platform on one machine: processes, job store and HTTP interface, in one folder.

    `policy` is the file's bytes; `tell` is given each public event; `wrap` may replace an address by a
    relay's (a network in between).
    """

    home: Path
    workers: int
    tell: Callable[[dict[str, Any]], None]
    policy: bytes = field(default_factory=policy_bytes)
    wrap: Callable[[str, str], str] = lambda _, address: address
    processes: dict[str, EnclaveProcess] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    _events: Events = field(default_factory=queue.Queue)
    _store: JobStore | None = None
    _server: uvicorn.Server | None = None
    _lock: IO[bytes] | None = None

    @property
    def store(self) -> JobStore:
        """The job store.

        Raises:
            LaunchError: the deployment has not started.
        """
        if self._store is None:
            raise LaunchError("the deployment has not started")
        return self._store

    @property
    def blobs(self) -> Path:
        """The folder with ciphertext."""
        return self.home / "blobs"

    def start(self, port: int) -> str:
        """Start everything; return the URL of the HTTP interface.

        Raises:
            LaunchError: a process does not start, or another deployment uses the folder.
        """
        self._prepare_home()
        self._store = JobStore(self.home / DATABASE)
        members = {"server": Role.SERVER, "query": Role.QUERY}
        members |= {f"worker-{index}": Role.WORKER for index in range(self.workers)}
        for name, role in members.items():
            self._start_process(name, role, {})
        self._await_addresses(set(members))
        workers = [self.addresses[f"worker-{index}"] for index in range(self.workers)]
        places = {"server": self.addresses["server"], "query": self.addresses["query"], "workers": workers}
        self._start_process("lead", Role.LEAD, {**places, "store": str(self.blobs)})
        self._await_addresses({"lead"})
        self._settle_old_jobs()
        return self._serve_http(port)

    def run(self, stop: threading.Event) -> None:
        """Follow the events until `stop` is set.

        Raises:
            LaunchError: an enclave process ended; its jobs are refused and nothing is half-written.
        """
        while not stop.is_set():
            try:
                name, event = self._events.get(timeout=0.2)
            except queue.Empty:
                continue
            if event is None:
                raise LaunchError(self._lost(name))
            self._follow(event)

    def close(self) -> None:
        """End every process by its id, refuse what was running, release the folder."""
        if self._server is not None:
            self._server.should_exit = True
        for process in self.processes.values():
            process.stop()
        if self._store is not None:
            self._refuse_unfinished()
            self._store.close()
        if self._lock is not None:
            self._lock.close()

    def describe(self) -> dict[str, Any]:
        """Return what everybody may know of this deployment."""
        endpoints = {name: self.addresses[name] for name in ("lead", "query")}
        return {"chiron": "0.1.0", "simulated": True, "workers": self.workers, "endpoints": endpoints}

    def attach(self, job: JobId) -> None:
        """Have the lead run a job whose submissions are both stored."""
        paths = {kind: str(self.blobs / f"{job}.{kind}") for kind in ("guest", "dataset")}
        self.store.set_state(job, states.RUNNING)
        self.processes["lead"].send({"do": "attach", "job": job, **paths})

    def _prepare_home(self) -> None:
        self.blobs.mkdir(parents=True, exist_ok=True)
        (self.home / "logs").mkdir(exist_ok=True)
        self._lock = (self.home / LOCK_FILE).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LaunchError(
                f"{self.home} is in use by another `chiron up`: choose another --home"
            ) from error
        if not (self.home / CPU_FOLDER).exists():
            create_simulated_cpu(self.home / CPU_FOLDER)
        for part in self.blobs.glob("*.part"):
            part.unlink()

    def _start_process(self, name: str, role: Role, configuration: dict[str, Any]) -> None:
        self.processes[name] = EnclaveProcess(
            name,
            role,
            configuration={
                "simulated_cpu": str(self.home / CPU_FOLDER),
                "policy": self.policy.decode(),
                **configuration,
            },
            log=self.home / "logs" / f"{name}.log",
            events=self._events,
        )

    def _await_addresses(self, names: set[str]) -> None:
        while not names <= set(self.addresses):
            try:
                name, event = self._events.get(timeout=START_S)
            except queue.Empty as error:
                raise LaunchError(
                    f"an enclave did not start in {START_S:.0f} s: see {self.home}/logs"
                ) from error
            if event is None:
                raise LaunchError(self._lost(name))
            self.addresses[name] = self.wrap(name, event["address"])

    def _lost(self, name: str) -> str:
        text = f"the enclave process {name} ended ({self.processes[name].ending()})"
        return f"{text}: running jobs are refused, nothing is half-written; run `chiron up` again"

    def _settle_old_jobs(self) -> None:
        """Refuse what an earlier run left unfinished; have the lead serve again what it had sealed."""
        self._refuse_unfinished()
        for job in self.store.all():
            if job["state"] == states.SEALED:
                self.processes["lead"].send({"do": "resume", "job": job["id"]})

    def _refuse_unfinished(self) -> None:
        """Refuse jobs that cannot go on: the keys that open their submissions are gone with the lead."""
        for job in self.store.all():
            if job["state"] in states.UNFINISHED:  # JOB-3
                self.store.set_state(job["id"], states.REFUSED, reason=INTERRUPTED)
                self.tell({"event": "stopped", "job": job["id"], "reason": INTERRUPTED})

    def _follow(self, event: dict[str, Any]) -> None:
        job = event.get("job", "")
        match event["event"]:
            case "phase":
                self.store.set_phase(job, event["phase"], planned_ms=event["planned_ms"])
                if "offer" in event:
                    self.store.set_offer(job, event["offer"])
            case "ended":
                state, reason = ENDINGS[event["outcome"]]
                self.store.set_state(job, state, reason=reason)
            case "stopped":
                event = {**event, "reason": StopReason[event["reason"]].value}
                self.store.set_state(job, states.REFUSED, reason=event["reason"])
            case "unresumable":
                reason = "the sealed model or its record was lost or changed: start a new job"
                self.store.set_state(job, states.REFUSED, reason=reason)
        self.tell(event)

    def _serve_http(self, port: int) -> str:
        listener = socket.create_server(("127.0.0.1", port))
        api = make_api(self.store, self.blobs, describe=self.describe, attach=self.attach)
        self._server = uvicorn.Server(uvicorn.Config(api, log_level="warning", access_log=False))
        thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        host, bound = listener.getsockname()
        return f"http://{host}:{bound}"
