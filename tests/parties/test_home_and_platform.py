"""A party's directory, what it believes of a platform, and what it checks before it approves."""

from __future__ import annotations

import json
import stat
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import (
    POLICY,
    listening,
    make_attester,
    new_node,
    offline_platform,
    platform_saying,
    small_dataset,
    with_policy,
)

from chiron.parties import approval
from chiron.parties.errors import PartyError
from chiron.parties.home import KEY_FILE, REFERENCE_FILE, Home, create_home, open_home
from chiron.parties.platform import Platform, ask_lead, attested
from chiron.parties.query import QueryClient, rows_for
from chiron.parties.submit import new_job_id, submit_dataset, submit_guest
from chiron.policy.header import Header
from chiron.policy.types import PolicyDigest
from chiron.training.agreement import Offer, make_offer, sign_approval, sign_receipt
from chiron.training.errors import TrainingError
from chiron.training.node import Role
from chiron.training.submission import Kind, PartyKey, draft_manifest, parse_job_id
from chiron.training.wire import receive_map, send_map

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from enclave import Channel, SimulatedAttester

JOB = new_job_id()
STRANGER = PartyKey(Ed25519PrivateKey.generate().public_key().public_bytes_raw())


@pytest.fixture
def attester(tmp_path: Path) -> SimulatedAttester:
    return make_attester(tmp_path)


@pytest.fixture
def reference(tmp_path: Path, attester: SimulatedAttester) -> Path:
    path = tmp_path / "reference.json"
    path.write_bytes(with_policy(attester.own_reference()).to_json())
    return path


# The directory


def test_a_home_opens_as_it_was_made(tmp_path: Path, reference: Path) -> None:
    made, opened = create_home(tmp_path / "home", reference), open_home(tmp_path / "home")
    assert opened.signer.private_bytes_raw() == made.signer.private_bytes_raw()
    assert opened.reference == made.reference


def test_only_its_owner_reads_a_home(tmp_path: Path, reference: Path) -> None:
    create_home(tmp_path / "home", reference)
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "home" / KEY_FILE).stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path, reference: Path) -> None:
    create_home(tmp_path / "home", reference)
    before = (tmp_path / "home" / KEY_FILE).read_bytes()
    with pytest.raises(PartyError, match="already holds a key"):
        create_home(tmp_path / "home", reference)
    assert (tmp_path / "home" / KEY_FILE).read_bytes() == before


def test_a_key_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_home(tmp_path / "home", reference)
    before = (tmp_path / "home" / KEY_FILE).read_bytes()
    monkeypatch.setattr(type(tmp_path), "exists", lambda _: False)
    with pytest.raises(PartyError, match="choose another --home"):
        create_home(tmp_path / "home", reference)
    assert (tmp_path / "home" / KEY_FILE).read_bytes() == before


def test_a_home_cannot_be_made_where_a_file_is(tmp_path: Path, reference: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(PartyError, match="choose another --home"):
        create_home(tmp_path / "home", reference)


def test_without_reference_values_no_home_is_made(tmp_path: Path) -> None:
    with pytest.raises(PartyError, match="chiron reference"):
        create_home(tmp_path / "home", tmp_path / "nothing.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(PartyError, match="do not parse"):
        create_home(tmp_path / "home", tmp_path / "bad.json")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", [KEY_FILE, REFERENCE_FILE])
@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_a_damaged_home_is_refused(tmp_path: Path, reference: Path, name: str, content: bytes | None) -> None:
    create_home(tmp_path / "home", reference)
    path = tmp_path / "home" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(PartyError):
        open_home(tmp_path / "home")


def test_a_missing_home_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PartyError, match="init --reference FILE"):
        open_home(tmp_path / "home")


# The platform


def test_a_platform_tells_its_jobs_and_addresses() -> None:
    said = {"endpoints": {"lead": "127.0.0.1:77"}, "jobs": [{"id": JOB}]}
    platform = platform_saying(200, said)
    assert platform.describe() == said
    assert platform.jobs() == [{"id": JOB}]
    assert platform.job(JOB) == said
    assert platform.address(Role.LEAD) == ("127.0.0.1", 77)


@pytest.mark.parametrize(
    "endpoints",
    [
        None, {}, [], {"lead": ""}, {"lead": "host"}, {"lead": "host:port"},
        {"lead": "h:0"}, {"lead": "h:70000"}, {"lead": "h:-1"}, {"lead": None},
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(endpoints: object) -> None:
    with pytest.raises(PartyError, match="does not answer like a Chiron platform"):
        platform_saying(200, {"endpoints": endpoints}).address(Role.LEAD)


@pytest.mark.parametrize("said", ["<html>", "", "[]", "5", '{"jobs": 5}', "{}"])
def test_an_answer_of_another_form_is_refused(said: str) -> None:
    with pytest.raises(PartyError, match="does not answer like a Chiron platform"):
        platform_saying(200, said).jobs()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('{"error": "no such job"}', "refused: no such job"),
        ("<html>", "HTTP status 404"),
        ("[]", "HTTP status 404"),
        ("{}", "HTTP status 404"),
    ],
)
def test_a_refusal_is_passed_on(said: str, words: str) -> None:
    with pytest.raises(PartyError, match=words):
        platform_saying(404, said).job(JOB)


def test_no_platform_says_how_to_start_one() -> None:
    def refused(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(PartyError, match="start one with `chiron up`"):
        offline_platform(refused).describe()


@pytest.mark.parametrize("url", ["http://[", "nonsense://x"])
def test_a_url_that_is_none_says_so(url: str) -> None:
    with pytest.raises(PartyError):
        Platform(url).describe()


def test_an_upload_sends_the_files_bytes(tmp_path: Path) -> None:
    seen: list[tuple[str, str, bytes]] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path, request.read()))
        return httpx.Response(201, json={})

    (tmp_path / "x").write_bytes(b"ciphertext")
    offline_platform(respond).upload(JOB, "guest", tmp_path / "x")
    assert seen == [("PUT", f"/v1/jobs/{JOB}/guest", b"ciphertext")]


# The lead, as a party sees it


@pytest.fixture
def home(attester: SimulatedAttester) -> Home:
    return Home(Ed25519PrivateKey.generate(), attester.own_reference(), POLICY)


class Enclave:
    """An honest enclave's Evidence with any behaviour behind it."""

    def __init__(self, attester: SimulatedAttester, handle: Callable[[Channel], None], role: Role) -> None:
        self.node = new_node(role, attester)
        self._door: AbstractContextManager[tuple[str, int]] = listening(self.node, handle, anonymous=True)

    def __enter__(self) -> Platform:
        host, port = self._door.__enter__()
        everywhere = {role.value: f"{host}:{port}" for role in Role}
        return platform_saying(200, {"endpoints": everywhere})

    def __exit__(self, *exc: object) -> None:
        self._door.__exit__(None, None, None)


def saying(answer: object) -> Callable[[Channel], None]:
    def handle(channel: Channel) -> None:
        receive_map(channel)
        if isinstance(answer, bytes):
            channel.send_message(answer)
        elif isinstance(answer, dict):
            send_map(channel, answer)

    return handle


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"error": "unknown-job"}, "check the job id"),
        ({"error": "something"}, "the lead refused$"),
        ({"error": ["list"]}, "the lead refused$"),
        (b"garbage", "the connection to the lead broke"),
        (None, "the connection to the lead broke"),
    ],
)
def test_what_the_lead_refuses_comes_with_a_remedy(
    attester: SimulatedAttester, home: Home, answer: object, words: str
) -> None:
    with Enclave(attester, saying(answer), Role.LEAD) as platform, pytest.raises(PartyError, match=words):
        ask_lead(platform, home, {"ask": "offer", "job": JOB})


def test_an_answer_comes_back(attester: SimulatedAttester, home: Home) -> None:
    with Enclave(attester, saying({"ok": 5}), Role.LEAD) as platform:
        assert ask_lead(platform, home, {"ask": "x", "job": JOB}) == 5


def test_an_enclave_of_another_role_code_or_root_is_not_trusted(
    attester: SimulatedAttester, home: Home, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = make_attester(tmp_path / "other").own_reference()
    with Enclave(attester, lambda _: None, Role.WORKER) as platform:
        with pytest.raises(PartyError, match="is not trusted"), attested(platform, home, Role.LEAD):
            pass
        stranger = replace(home, reference=other)
        with pytest.raises(PartyError, match="is not trusted"), attested(platform, stranger, Role.WORKER):
            pass


def test_nothing_is_encrypted_to_an_enclave_that_is_not_trusted(
    attester: SimulatedAttester, home: Home
) -> None:
    uploads: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            uploads.append(request)
        return httpx.Response(200, json={"endpoints": addresses})

    with Enclave(attester, lambda _: None, Role.WORKER) as described:
        addresses = described.describe()["endpoints"]
        with pytest.raises(PartyError, match="is not trusted"):
            submit_dataset(offline_platform(respond), home, dataset=small_dataset(), job=JOB)
    assert uploads == []


def test_a_guest_that_is_refused_never_leaves_its_operator(home: Home) -> None:
    silent = offline_platform(lambda _: pytest.fail("the platform was asked"))
    with pytest.raises(PartyError, match="not WebAssembly"):
        submit_guest(silent, home, policy=POLICY, guest=b"MZ", job=JOB, seed=1)


def test_job_ids_are_fresh_and_well_formed() -> None:
    assert new_job_id() != new_job_id()
    assert parse_job_id(new_job_id())


# The offer


def offer_for(home: Home) -> Offer:
    guest = draft_manifest(Kind.GUEST, JOB, signer=home.signer, seed=1)
    dataset = draft_manifest(Kind.DATASET, JOB, signer=home.signer, schema=small_dataset().schema)
    return make_offer(POLICY, guest, dataset=dataset, header=Header(1, 16, 1, 4096, 5, 1000), spent={})


def test_an_offer_that_adds_up_is_shown(attester: SimulatedAttester, home: Home) -> None:
    offer = offer_for(home)
    with Enclave(attester, saying({"ok": offer.as_dict()}), Role.LEAD) as platform:
        assert approval.fetch_offer(platform, home, JOB, policy=POLICY) == offer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": PolicyDigest("0" * 64)}, "under another policy"),
        ({"header": Header(4, 16, 1, 4096, 5, 1000)}, "not on your policy's menus"),
        ({"job": "1" * 32}, "does not add up"),
        ({"operator": STRANGER, "user": STRANGER}, "does not add up"),
        ({"bits": {"operator": 1, "user": 1, "platform": 1}}, "does not add up"),
        ({"bits": {}}, "does not add up"),
        ({"ledger": {"spent": {}, "charge": {}, "left": {}}}, "does not add up"),
        ({"header": Header(2, 16, 1, 4096, 5, 1000)}, "does not add up"),
    ],
)
def test_an_offer_that_does_not_add_up_is_refused(
    attester: SimulatedAttester, home: Home, change: dict[str, Any], words: str
) -> None:
    said = replace(offer_for(home), **change).as_dict()
    with (
        Enclave(attester, saying({"ok": said}), Role.LEAD) as platform,
        pytest.raises(PartyError, match=words),
    ):
        approval.fetch_offer(platform, home, JOB, policy=POLICY)


def test_a_receipt_of_another_job_is_refused(attester: SimulatedAttester, home: Home) -> None:
    offer = offer_for(home)
    party = home.signer.public_key().public_bytes_raw().hex()
    enclave = Enclave(attester, lambda channel: handle(channel), Role.LEAD)  # noqa: PLW0108  bound below
    fields = {
        "version": 2, "offer": offer.as_dict(), "charged": offer.ledger["charge"],
        "outcome": "sealed", "simulated": True, "private_training": None,
        "approvals": {party: sign_approval(home.signer, offer).hex()}, "finished_at": int(time.time()),
        "evidence": enclave.node.identity.evidence.to_bytes(),
    }  # fmt: skip
    handle = saying({"ok": sign_receipt(enclave.node.signer, fields).to_bytes()})
    with enclave as platform:
        assert approval.fetch_receipt(platform, home, JOB)[1]["outcome"] == "sealed"
        with pytest.raises(PartyError, match="another job's receipt"):
            approval.fetch_receipt(platform, home, new_job_id())


def test_what_is_no_receipt_is_refused(attester: SimulatedAttester, home: Home) -> None:
    with (
        Enclave(attester, saying({"ok": b"no receipt"}), Role.LEAD) as platform,
        pytest.raises(TrainingError),
    ):
        approval.fetch_receipt(platform, home, JOB)


# Queries


@pytest.mark.parametrize("shape", [(3,), (1, 4, 5), (2, 3)])
def test_one_row_may_come_without_its_first_dimension(shape: tuple[int, ...]) -> None:
    row = np.zeros(shape, np.float32)
    assert rows_for(row, shape).shape == (1, *shape)
    assert rows_for(row[np.newaxis], shape).shape == (1, *shape)
    assert rows_for(np.zeros((7, *shape), np.float32), shape).shape == (7, *shape)


@pytest.mark.parametrize("shape", [(), (4,), (2, 4), (1, 1, 3), (3, 1)])
def test_a_query_of_another_shape_names_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(PartyError) as caught:
        rows_for(np.zeros(shape, np.float32), (3,))
    assert str(shape) in str(caught.value)
    assert "(n, 3)" in str(caught.value)


def http(raw: bytes) -> Callable[[Channel], None]:
    def handle(channel: Channel) -> None:
        channel.recv(1 << 16)
        channel.send(raw)

    return handle


def response(status: int, value: object, *, pad: int = 0) -> bytes:
    content = json.dumps(value).encode() + b" " * pad
    return f"HTTP/1.1 {status} \r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


@pytest.fixture
def asking(attester: SimulatedAttester, home: Home) -> Callable[[bytes], Any]:
    def ask(raw: bytes) -> Any:  # noqa: ANN401  JSON
        with Enclave(attester, http(raw), Role.QUERY) as platform, QueryClient(platform, home, JOB) as client:
            return client.request("GET", "/v2")

    return ask


def test_an_answer_with_padding_is_parsed(asking: Callable[[bytes], Any]) -> None:
    assert asking(response(200, {"a": 1}, pad=500)) == {"a": 1}


def test_a_fault_of_the_enclave_is_passed_on(asking: Callable[[bytes], Any]) -> None:
    with pytest.raises(PartyError, match=r"refused \(429\): the budget is spent"):
        asking(response(429, {"error": "the budget is spent"}))


@pytest.mark.parametrize(
    "raw", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 \r\ncontent-length: 50\r\n\r\nshort"]
)
def test_an_answer_that_ends_early_is_a_broken_connection(asking: Callable[[bytes], Any], raw: bytes) -> None:
    with pytest.raises(PartyError, match="the connection to the query enclave broke"):
        asking(raw)
