"""The real processes, searched for canaries: files, logs, arguments, environments and the network."""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from canaries import Canary, find, float_canaries
from capture import can_capture, loopback_capture
from realjob import CHECKOUT, make_parties, platform, run_job

from chiron.parties.build import build
from chiron.policy.header import Header
from chiron.training.sealed import Model, unseal_model
from enclave import Measurement, SealError, SimulatedAttester

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not can_capture(), reason="needs a packet socket on loopback: run as root"),
]
PACKAGES = ("chiron", "wasm_sandbox", "enclave", "paramserver", "spec")
ROWS = 100
MARKED = (0, 49, 99)  # rows that are searched for


@dataclass(frozen=True, slots=True)
class Secrets:
    """What both parties hand in, and what to search for."""

    guest: Path
    data: Path
    canaries: list[Canary]


@pytest.fixture(scope="session")
def built_guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("guest") / "guest.wasm"
    return build(CHECKOUT / "examples" / "mlp-c", output=output, sdk=CHECKOUT / "spec" / "sdk" / "c")


def plant(folder: Path, guest: Path) -> Secrets:
    """Put a canary into the guest's binary and one into a row of the data set."""
    mark = secrets.token_bytes(24)
    section = b"\x04mark" + mark
    planted = folder / "guest.wasm"
    planted.write_bytes(guest.read_bytes() + b"\x00" + bytes([len(section)]) + section)
    random = np.random.default_rng()
    targets = np.arange(ROWS) % 4
    rows = random.normal(size=(ROWS, 16)).astype(np.float32)
    rows[np.arange(ROWS), targets] += 6
    data = folder / "rows.npz"
    np.savez(data, rows=rows, targets=targets)
    marked = [canary for index in MARKED for canary in float_canaries(f"row {index}", rows[index])]
    return Secrets(
        planted, data, [Canary("guest", mark), Canary("guest code", guest.read_bytes()[256:288]), *marked]
    )


def weights_of(home: Path, job: str, header: Header, measurement: str) -> Model:
    """Open the sealed model with the simulated CPU's own key, which only a simulation can do."""
    attester = SimulatedAttester(home / "simulated-cpu", Measurement(measurement))
    key = attester.sealing_key(f"model {job}")
    return unseal_model((home / "blobs" / f"{job}.model").read_bytes(), key=key, job=job, header=header)


def everything_the_platform_holds(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def process_surroundings(pids: dict[str, int]) -> dict[str, bytes]:
    return {
        f"{name} {what}": Path(f"/proc/{pid}/{what}").read_bytes()
        for name, pid in pids.items()
        for what in ("cmdline", "environ")
    }


def copy_tree(folder: Path, changes: Sequence[tuple[str, str, str]]) -> Path:
    """Copy the sources with some lines changed: an injected bug. Such a tree measures itself as it is."""
    for name in PACKAGES:
        shutil.copytree(CHECKOUT / name, folder / name)  # with its byte code, which saves compiling it again
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    for file, old, new in changes:
        text = (folder / file).read_text()
        assert text.count(old) == 1, f"{file} no longer has exactly one {old!r}"
        (folder / file).write_text(text.replace(old, new))
    return folder


def observe(folder: Path, secret: Secrets, tree: Path) -> tuple[dict[str, bytes], list[Canary]]:
    """Run a job; return everything the platform and the network saw, and the canaries.

    The weights' canary is read from the sealed model, which this tree's own code must be able to open.
    """
    home, canaries = folder / "platform", list(secret.canaries)
    with loopback_capture() as capture, platform(home, tree=tree) as running:
        parties = make_parties(folder, home, running.url, tree=tree)
        places = process_surroundings(running.pids)
        job = run_job(parties, running, secret.guest, secret.data)
        query = folder / "query.npy"
        np.save(query, np.load(secret.data)["rows"][:3])
        assert parties.run("user", "query", job, "--input", str(query)).code == 0
        offer = running.wait_for(event="phase", job=job, phase="Approve")["offer"]
        measurement = _measurement(folder)
    assert capture.dropped == 0
    try:
        model = weights_of(home, job, Header(**offer["header"]), measurement)
    except SealError:
        assert tree != CHECKOUT  # only an injected bug may seal in a way that this code cannot open
    else:
        canaries += float_canaries("weights", model.parameters[64:])
        canaries.append(Canary("graph", model.graph[:48]))
    places |= everything_the_platform_holds(home)
    places |= {f"network flow {index}": stream for index, stream in enumerate(capture.streams())}
    return places, canaries


def _measurement(folder: Path) -> str:
    return str(json.loads((folder / "reference.json").read_bytes())["measurement"])


def test_no_canary_is_anywhere_the_platform_or_the_network_can_see(tmp_path: Path, built_guest: Path) -> None:
    places, canaries = observe(tmp_path, plant(tmp_path, built_guest), CHECKOUT)
    assert sum(len(hay) for name, hay in places.items() if name.startswith("network")) > 1 << 20
    assert any(name.startswith("blobs/") for name in places)
    assert find(canaries, places) == []


BESIDE_THE_CHANNEL = """    import socket
    plain = socket.create_server(("127.0.0.1", 0))
    other = socket.create_connection(plain.getsockname())
    other.sendall(parameters[:256].tobytes())
    other.close()
    plain.close()
    return Trained(parameters,"""
BUGS = {
    "bulk data is not encrypted": [
        ("enclave/stream.py", "cipher.encrypt(nonce, chunk, associated)", "chunk + bytes(TAG_BYTES)"),
        (
            "enclave/stream.py",
            "cipher.decrypt(NONCE.pack(head.prefix, index, not following), chunk, associated)",
            "chunk[:-TAG_BYTES]",
        ),
        (
            "enclave/chunks.py",
            "cipher.encrypt(_nonce(head, index, chunking), filled, associated)",
            "filled + bytes(TAG_BYTES)",
        ),
        ("enclave/chunks.py", "self._cipher.decrypt(nonce, sealed, self._associated)", "sealed[:-TAG_BYTES]"),
    ],
    "a worker logs its rows": [
        (
            "chiron/training/worker.py",
            "batches = Batches(",
            "import sys; print(chunks.at(0).rows.tobytes().hex(), file=sys.stderr); batches = Batches(",
        )
    ],
    "the model is kept unsealed as well": [
        (
            "chiron/training/closing.py",
            "blob = seal_model(",
            'stored(cell, offer.job, "x").write_bytes(result.model.parameters.tobytes()); blob = seal_model(',
        )
    ],
    "parameters travel beside the attested channel": [
        (
            "chiron/training/exchange.py",
            "    return Trained(parameters,",
            BESIDE_THE_CHANNEL,
        )
    ],
}


@pytest.mark.parametrize(
    "bug",
    [
        pytest.param(bug, marks=pytest.mark.long if "encrypted" in bug else pytest.mark.nightly)
        for bug in sorted(BUGS)
    ],
)
def test_the_search_finds_the_canary_that_an_injected_bug_lets_out(
    bug: str, tmp_path: Path, built_guest: Path
) -> None:
    tree = copy_tree(tmp_path / "tree", BUGS[bug])
    places, canaries = observe(tmp_path, plant(tmp_path, built_guest), tree)
    assert find(canaries, places) != []
