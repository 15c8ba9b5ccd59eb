"""Measures whether the time of an answer tells two requests apart that a secret could choose between.

    python -m benchmarks.answer_timing --answers 100000

A query enclave in a process of its own serves a model on a grid. One class of requests is answered
by the network; in the other the network overflows, which is answered as a failure and, here, takes 2 ms more.
The observer is at the socket's other end: it takes the time from the request's last byte to the answer's.
Requests of both classes come in random order and have the same size. Welch's t as in tests/support/timing.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
import queries
from deployments import POLICY_BYTES, VALUES, Events, listening, make_attester
from timing import compare

from chiron.guest_api.monitor import state_to_dict
from chiron.policy.loader import parse_policy
from chiron.serving import query
from chiron.serving.query import QueryNode
from chiron.training.node import Role, make_node
from enclave import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chiron.guest_api.dataset import Float32Array
    from enclave import Channel

BUDGET, SLOWER_S = 1_000_000, 0.002
CLASSES = {"answered": "1.0e00", "failed": "3.0e38"}  # the second overflows in the network
CHANGES = (
    (b"uses = 1000", b"uses = %d" % BUDGET),
    (b"user = 16016 ", b"user = %d " % (16 * BUDGET + 16)),
    (b"user = 160010 ", b"user = %d " % (160 * BUDGET + 10)),
)


def serve(folder: Path, *, grid_ms: int, leaky: bool) -> None:
    """Serve until standard input ends; with `leaky` answers leave when they are ready."""
    raw = POLICY_BYTES.replace(b"grid_ms = 50", b"grid_ms = %d" % grid_ms)
    for old, new in CHANGES:
        raw = raw.replace(old, new)
    policy = parse_policy(raw)
    if leaky:
        query._wait_for_grid = lambda *_: None  # noqa: SLF001 - the sabotage that must be found
    node = make_node(Role.QUERY, policy, policy_bytes=raw, attester=make_attester(folder), emit=Events())
    service = QueryNode(node)
    with listening(node, service.handle, anonymous=True) as (host, port):
        state = replace(queries.serving_state(), ticks_left=BUDGET)
        if not service._take(queries.handover(folder) | {"state": state_to_dict(state)}):  # noqa: SLF001 - as the lead's handing over would
            raise RuntimeError("the model does not open")
        _slow_down(service)
        print(json.dumps([host, port]), flush=True)
        sys.stdin.read()


def _slow_down(service: QueryNode) -> None:
    """Make the network take SLOWER_S longer where it overflows: a difference that the grid must hide."""
    predictor = service.models[queries.JOB].predictor
    predict = predictor.predict

    def slow(rows: Float32Array) -> Float32Array:
        scores = predict(rows)
        if not np.isfinite(scores).all():
            time.sleep(SLOWER_S)
        return scores

    predictor.predict = slow  # type: ignore[method-assign]


def request(channel: Channel, number: str) -> float:
    """Return the milliseconds that one request's answer took."""
    body = f'{{"inputs": [{{"shape": [1, {VALUES}], "data": [{", ".join([number] * VALUES)}]}}]}}'
    reply = queries.ask(channel, "POST", f"/v2/models/{queries.JOB}/infer", body=body.encode())
    return 1000 * reply.after_s


def measure(
    answers: int, *, grid_ms: int, seed: int = 1, leaky: bool = False, servers: int = 1
) -> dict[str, np.ndarray]:
    """Return the milliseconds of each answer by class, from as many servers at once."""
    share = partial(_share, -(-answers // servers), grid_ms=grid_ms, leaky=leaky)
    with ThreadPoolExecutor(servers) as pool:
        shares = list(pool.map(share, range(seed, seed + servers)))
    return {name: np.array([ms for part in shares for ms in part[name]][:answers]) for name in CLASSES}


def _share(answers: int, seed: int, *, grid_ms: int, leaky: bool) -> dict[str, list[float]]:
    """Ask one server for so many answers of each class."""
    order = [name for name in CLASSES for _ in range(answers)]
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, no key
    seen: dict[str, list[float]] = {name: [] for name in CLASSES}
    options = ["--grid-ms", str(grid_ms), *(["--leaky"] if leaky else [])]
    with tempfile.TemporaryDirectory() as place:
        for channel, names in _connections(Path(place), order, options):
            for name in names:
                seen[name].append(request(channel, CLASSES[name]))
    return seen


def _connections(folder: Path, order: list[str], options: list[str]) -> Iterator[tuple[Channel, list[str]]]:
    """Yield an attested connection to a serving process with the requests that go over it."""
    command = [sys.executable, "-m", "benchmarks.answer_timing", "--serve", str(folder)]
    attester = make_attester(folder)
    with subprocess.Popen(  # noqa: S603 - our own module
        [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        if server.stdin is None or server.stdout is None:
            raise RuntimeError("Popen was given pipes")
        host, port = json.loads(server.stdout.readline())
        chunks = [order[at : at + 100] for at in range(0, len(order), 100)]
        for names in track(chunks, "answers", disable=not sys.stderr.isatty()):
            with connect(
                (host, port), identity=None, reference=attester.own_reference(), timeout_s=10
            ) as one:
                yield one, names
        server.stdin.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--answers", type=int, default=100_000, help="of each class")
    parser.add_argument("--servers", type=int, default=4, help="asked at once: they sleep most of the time")
    parser.add_argument("--grid-ms", type=int, default=20, help="of the policy served under")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the requests")
    parser.add_argument("--leaky", action="store_true", help="without the grid: must be told apart")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, grid_ms=options.grid_ms, leaky=options.leaky)
        return
    seen = measure(
        options.answers,
        grid_ms=options.grid_ms,
        seed=options.seed,
        leaky=options.leaky,
        servers=options.servers,
    )
    quantiles = {
        name: [round(float(q), 3) for q in np.quantile(values, (0.5, 0.9, 0.99))]
        for name, values in seen.items()
    }
    result = {"answers": options.answers, "grid_ms": options.grid_ms, "quantiles_ms": quantiles}
    result |= {"servers": options.servers, "load": os.getloadavg()[0]}
    print(json.dumps(result | compare(*seen.values()).as_dict()))


if __name__ == "__main__":
    main()
