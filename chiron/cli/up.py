"""`chiron up`: starts a platform on this machine."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiron.cli.output import add_command, add_engine, add_policy
from chiron.installation import check_engine
from chiron.launch.local import Deployment
from chiron.policy.loader import policy_bytes

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output

DEFAULT_PORT = 8470
MAX_WORKERS = 64


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "up",
        help_text="start a platform: lead, parameter server, workers and query enclave (simulated)",
        example="chiron up --home platform --workers 2",
    )
    parser.add_argument(
        "--home", type=Path, default=Path("platform"), help="platform folder (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, choices=range(1, MAX_WORKERS + 1), metavar="N")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="0 for any free one (default: %(default)s)"
    )
    add_engine(parser)
    add_policy(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace, output: Output) -> None:
    """Run the platform until Ctrl-C, SIGTERM or the loss of an enclave process."""
    check_engine(chosen.engine)
    output.warn_simulated()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def tell(event: dict[str, Any]) -> None:
        words = "  ".join(
            str(event[key]) for key in ("event", "job", "phase", "outcome", "reason") if key in event
        )
        output.result(event, words)

    deployment = Deployment(chosen.home, chosen.workers, tell, policy=policy_bytes(chosen.policy))
    try:
        with output.progress() as progress:
            progress.add_task("starting enclave processes", total=None)
            url = deployment.start(chosen.port)
        processes = {name: process.pid for name, process in deployment.processes.items()}
        public = {"engine": chosen.engine.value, **deployment.describe()}
        ready = {"event": "ready", "url": url, "processes": processes, **public}
        named = "  ".join(f"{name} {pid}" for name, pid in processes.items())
        output.result(ready, f"platform ready at {url}\nprocesses  {named}\nCtrl-C stops it")
        deployment.run(stop)
    finally:
        deployment.close()
    output.say("stopped")
