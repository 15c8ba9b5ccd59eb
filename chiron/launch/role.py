"""The entry point of every enclave process: `python -m chiron.launch.role`, configured on standard input.

Standard output carries public events as JSON lines and nothing else. End of standard input ends the process,
so that no enclave outlives the platform that started it.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiron.launch.runtime import runtime_measurement
from chiron.policy.loader import parse_policy
from chiron.serving.query import QueryNode
from chiron.training import worker
from chiron.training.errors import TrainingError
from chiron.training.exchange import Cell
from chiron.training.lead import Lead
from chiron.training.node import Node, Role, listen, make_node, serve_connections
from chiron.training.server import ServerNode
from chiron.training.submission import parse_job_id
from enclave import EnclaveError, SimulatedAttester

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from enclave import Channel

SWITCH_S = 0.0005  # threads that keep a schedule of milliseconds cannot wait Python's default of 5 ms
_OUTPUT = threading.Lock()


def main() -> None:
    """Start the enclave that the first line describes, then obey commands until standard input ends."""
    sys.setswitchinterval(SWITCH_S)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # CONF-6: of this process, and of guests'
    threading.excepthook = _log_kind_only
    configuration = json.loads(sys.stdin.readline())
    role = Role(configuration["role"])
    attester = SimulatedAttester(Path(configuration["simulated_cpu"]), runtime_measurement())
    policy_bytes = configuration["policy"].encode()
    node = make_node(
        role, parse_policy(policy_bytes), policy_bytes=policy_bytes, attester=attester, emit=emit
    )
    listener = listen()
    command = _start(node, listener, configuration)
    host, port = listener.getsockname()
    emit({"event": "listening", "address": f"{host}:{port}", "simulated": attester.simulated})
    for line in sys.stdin:
        command(json.loads(line))


def emit(event: dict[str, Any]) -> None:
    """Tell the platform one public fact."""
    with _OUTPUT:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def _log_kind_only(ended: threading.ExceptHookArgs) -> None:
    """Log which kind of error ended a thread: its text is not for the platform to read."""
    sys.stderr.write(f"a thread ended: {ended.exc_type.__name__}\n")


def _start(
    node: Node, listener: socket.socket, configuration: dict[str, Any]
) -> Callable[[dict[str, Any]], None]:
    """Start serving connections in the role; return what obeys the platform's commands."""
    command: Callable[[dict[str, Any]], None] = _no_command
    handle: Callable[[Channel], None]
    match node.role:
        case Role.LEAD:
            lead = Lead(node, _cell(configuration))
            handle, command = lead.handle, _lead_command(lead)
        case Role.SERVER:
            handle = ServerNode(node).handle
        case Role.WORKER:
            handle = _worker(node)
        case Role.QUERY:
            handle = QueryNode(node).handle
    threading.Thread(
        target=serve_connections,
        args=(node, listener, handle),
        kwargs={"allow_anonymous": node.role in {Role.LEAD, Role.QUERY}},
        daemon=True,
    ).start()
    return command


def _worker(node: Node) -> Callable[[Channel], None]:
    def handle(channel: Channel) -> None:
        worker.handle(node, channel)

    return handle


def _no_command(command: dict[str, Any]) -> None:
    raise TrainingError(f"only a lead takes commands, not {sorted(command)}")


def _lead_command(lead: Lead) -> Callable[[dict[str, Any]], None]:
    def obey(command: dict[str, Any]) -> None:
        job = parse_job_id(command["job"])
        if command["do"] == "attach":
            lead.attach(job, guest=command["guest"], dataset=command["dataset"])
            return
        try:
            lead.resume(job)
            emit({"event": "resumed", "job": job})
        except (TrainingError, EnclaveError, OSError):
            emit({"event": "unresumable", "job": job})

    return obey


def _cell(configuration: dict[str, Any]) -> Cell:
    return Cell(
        workers=tuple(_address(text) for text in configuration["workers"]),
        server=_address(configuration["server"]),
        query=_address(configuration["query"]),
        store=Path(configuration["store"]),
    )


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    main()
