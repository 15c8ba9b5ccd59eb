"""`chiron explain`: every field of the policy shows, receipts are checked, bad input is named."""

from __future__ import annotations

import copy
import json
import time
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import POLICY, POLICY_BYTES, make_attester, new_node, small_dataset, with_policy
from hypothesis import given
from hypothesis import strategies as st

from chiron.cli.explain import MAX_BYTES
from chiron.cli.explain_words import TICKS, in_words
from chiron.cli.main import main
from chiron.parties import approval
from chiron.parties.errors import PartyError
from chiron.parties.explain import MEANINGS, explain_policy, explain_receipt
from chiron.parties.home import Home, create_home
from chiron.policy.header import Header
from chiron.policy.loader import DERIVED_TICKS, policy_from_table
from chiron.policy.types import PolicyDigest
from chiron.training.agreement import Offer, Receipt, make_offer, sign_approval, sign_receipt
from chiron.training.errors import TrainingError
from chiron.training.node import Role
from chiron.training.submission import JobId, Kind, draft_manifest
from chiron.training.wire import canonical, parse_map

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chiron.training.node import Node

Path_ = tuple[str, ...]
JOB = JobId("ab" * 16)
HEADER = Header(2, 16, 2, 4096, 20, 1000)
OPERATOR, USER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
NOT_SHOWN = {("version",): "the form of the file: a runtime that reads another form is another runtime"}

# Every field of the policy


def roomy() -> dict[str, Any]:
    """Return the policy in force with room for larger numbers, so that a changed one still loads."""
    table = tomllib.loads(POLICY_BYTES.decode())
    table["leak_cap_bits"] = {name: bits + 10**6 for name, bits in table["leak_cap_bits"].items()}
    table["declassify"]["header"]["bits"] = 20
    for phase in table["phases"].values():
        phase.setdefault("fresh", False)
        phase.setdefault("charge", False)
    return table


def leaves(table: dict[str, Any], path: Path_ = ()) -> Iterator[Path_]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


OTHER_NAMES = {
    "name": "another",
    "next": "Ended",
    "read": "seed",
    "write": "plan",
    "input": "graph",
    "ticks": "answers",
    "frames": "plan",
    "release": "answer",
    "phases": "Seal",
}
SECOND_NAMES = {"next": "Seal", "read": "schema", "write": "graph", "input": "plan", "ticks": "slots"}


def changed(value: Any, key: str) -> Any:  # noqa: ANN401  TOML values
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return OTHER_NAMES[key] if value != OTHER_NAMES[key] else SECOND_NAMES[key]
    if all(isinstance(item, int) for item in value) and value:
        return [*value, value[-1] + 1]
    for name in (OTHER_NAMES[key],) if key in OTHER_NAMES else ("operator", "user"):
        if name not in value:
            return [*value, name]
    return value[:-1]


FIELDS = [path for path in leaves(roomy()) if path not in NOT_SHOWN]


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_changing_any_field_of_the_policy_changes_what_is_said_of_it(path: Path_) -> None:
    before, after = roomy(), roomy()
    place = after
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = changed(copy.copy(place[path[-1]]), path[-1])
    assert before != after
    same = PolicyDigest("0" * 64)
    facts = [explain_policy(policy_from_table(table, same)) for table in (before, after)]
    assert facts[0] != facts[1]
    assert in_words(facts[0]) != in_words(facts[1])


def test_the_fields_that_are_not_shown_exist_and_have_a_reason() -> None:
    assert set(NOT_SHOWN) <= set(leaves(roomy()))
    assert all(NOT_SHOWN.values())


def test_every_release_and_every_derived_length_has_words() -> None:
    assert set(MEANINGS) == set(POLICY.declassifiers)
    assert set(TICKS) == set(DERIVED_TICKS)


def test_each_observer_is_told_its_releases_and_both_bounds() -> None:
    observers = explain_policy(POLICY)["observers"]
    assert {name: each["learns"] for name, each in observers.items()} == {
        "operator": ["outcome", "accuracy", "loss"],
        "user": ["header", "outcome", "answer"],
        "platform": ["header", "outcome"],
    }
    assert {name: each["job_bits"] for name, each in observers.items()} == POLICY.leak_cap_bits
    for name, each in observers.items():
        assert each["ledger_cap_bits"] == POLICY.ledger_cap_bits[name] == 10 * each["data_set_bits"]


def test_the_words_group_by_observer_then_by_phase_then_say_what_is_not_covered() -> None:
    text = " ".join(in_words(explain_policy(POLICY)).split())
    order = ["Who may learn what", "The operator", "The user", "The platform", "What leaves, and when"]
    order += [f" {name} lasts" for name in POLICY.phases]
    order += ["Not covered", "Time:", "Caches", "Simulated enclaves protect nothing"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert "In a job it learns at most 811 bits of others' secrets" in text
    assert "A tick sends a frame of operator_log: 65536 bytes, for operator to read." in text


# Receipts


@pytest.fixture(scope="module")
def lead(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return new_node(Role.LEAD, make_attester(tmp_path_factory.mktemp("lead")))


@pytest.fixture(scope="module")
def home(lead: Node) -> Home:
    return Home(USER, lead.attester.own_reference(), POLICY)


def an_offer() -> Offer:
    guest = draft_manifest(Kind.GUEST, JOB, signer=OPERATOR, seed=7)
    dataset = draft_manifest(Kind.DATASET, JOB, signer=USER, schema=small_dataset().schema)
    return make_offer(POLICY, guest, dataset=dataset, header=HEADER, spent={"operator": 27})


def stated_by(lead: Node, offer: Offer) -> dict[str, Any]:
    approvals = {
        signer.public_key().public_bytes_raw().hex(): sign_approval(signer, offer).hex()
        for signer in (OPERATOR, USER)
    }
    return {
        "version": 2,
        "offer": offer.as_dict(),
        "approvals": approvals,
        "charged": offer.ledger["charge"],
        "outcome": "sealed",
        "simulated": True,
        "evidence": lead.identity.evidence.to_bytes(),
        "private_training": None,
        "finished_at": int(time.time()),
    }


def receipt_of(lead: Node, **change: object) -> Receipt:
    return sign_receipt(lead.signer, stated_by(lead, an_offer()) | change)


def test_a_verified_receipt_says_its_own_numbers(lead: Node, home: Home) -> None:
    facts = explain_receipt(receipt_of(lead), policy=POLICY, home=home)
    assert facts["receipt"]["verified"] is True
    assert facts["observers"]["operator"]["job_bits"] == 1 + 10 + 2 * 8
    assert facts["releases"]["loss"]["uses"] == 2
    lengths = {phase["phase"]: phase["ticks"] for phase in facts["timeline"]}
    assert (lengths["Train"], lengths["Seal"]) == (an_offer().as_dict()["slots"], 2)
    text = " ".join(in_words(facts).split())
    for words in (
        f"Receipt of job {JOB}",
        " VERIFIED: Evidence of a lead",
        "SIMULATED",
        "epochs 2, batch 16",
        "operator: charged 27, 27 before the offer, 8056 left then; learns at most 27 bits.",
        "frames of 16416 bytes",
        USER.public_key().public_bytes_raw().hex(),
    ):
        assert words in text, words


def test_a_receipt_without_reference_values_is_said_to_be_not_verified(lead: Node) -> None:
    facts = explain_receipt(receipt_of(lead), policy=POLICY, home=None)
    assert facts["receipt"]["verified"] is False
    assert "NOT VERIFIED" in in_words(facts)
    assert "\nVERIFIED" not in in_words(facts)


def test_a_receipt_that_was_changed_does_not_verify(lead: Node, home: Home) -> None:
    good = receipt_of(lead)
    changed_receipt = replace(good, body=canonical(parse_map(good.body) | {"outcome": "failed"}))
    with pytest.raises(TrainingError, match="valid signature"):
        explain_receipt(changed_receipt, policy=POLICY, home=home)


def test_a_receipt_under_another_policy_is_explained_without_this_ones_rules(lead: Node) -> None:
    other = replace(POLICY, digest=PolicyDigest("f" * 64))
    facts = explain_receipt(receipt_of(lead), policy=other, home=None)
    assert "observers" not in facts
    assert "is not the one here" in " ".join(in_words(facts).split())


def test_a_receipt_that_names_another_policy_than_its_evidence_does_not_verify(
    lead: Node, home: Home
) -> None:
    offer = replace(an_offer(), policy=PolicyDigest("f" * 64))
    receipt = sign_receipt(lead.signer, stated_by(lead, offer))
    with pytest.raises(PartyError, match="another policy than its Evidence"):
        approval.verify_receipt(receipt, home)


def test_a_receipt_with_another_charge_than_was_approved_does_not_verify(lead: Node, home: Home) -> None:
    cheaper = receipt_of(lead, charged=dict.fromkeys(POLICY.observers, 0))
    with pytest.raises(PartyError, match="another charge"):
        approval.verify_receipt(cheaper, home)
    with pytest.raises(PartyError, match="do not follow from its policy"):
        explain_receipt(cheaper, policy=POLICY, home=None)


@pytest.mark.parametrize(
    "change",
    [
        {"bits": {"operator": 1, "user": 1, "platform": 1}},
        {"ledger": {"spent": {}, "charge": {}, "left": {}}},
        {"header": HEADER.as_dict() | {"epochs": 4}},
        {"header": HEADER.as_dict() | {"parameters": 1 << 40}},
        {"header": HEADER.as_dict() | {"slot_ms": 0}},
        {"seed": 1 << 70},
        {"guest": "\x1b[31m" + "0" * 59},
        {"job": "\x1b[31m"},
        {"schema": {}},
        {"slots": 1},
    ],
)
def test_an_offer_in_a_receipt_that_does_not_add_up_is_refused(lead: Node, change: dict[str, Any]) -> None:
    fields = stated_by(lead, an_offer())
    fields["offer"] |= change
    with pytest.raises((PartyError, TrainingError), match="receipt"):
        explain_receipt(sign_receipt(lead.signer, fields), policy=POLICY, home=None)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9)
) | st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3)
NAMES = (
    "approvals",
    "charged",
    "outcome",
    "simulated",
    "evidence",
    "private_training",
    "finished_at",
    "offer",
)


@given(name=st.sampled_from(NAMES), value=ODD)
def test_any_statement_of_another_form_is_refused_or_shown_and_never_an_accident(
    lead: Node, name: str, value: object
) -> None:
    try:
        facts = explain_receipt(receipt_of(lead, **{name: value}), policy=POLICY, home=None)
    except (PartyError, TrainingError):
        return
    assert in_words(facts)
    assert json.dumps(facts)


# The command


def test_without_a_file_the_policy_in_force_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == explain_policy(POLICY)
    assert main(["explain"]) == 0
    assert POLICY.digest in capsys.readouterr().out


def test_a_policy_file_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.toml"
    path.write_bytes(POLICY_BYTES.replace(b'name = "chiron-train-and-serve"', b'name = "my \\u001b[31mown"'))
    assert main(["explain", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "Policy my ?[31mown" in shown
    assert "\x1b" not in shown


def test_a_receipt_file_is_explained_and_verified(
    lead: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, keys = tmp_path / "job.receipt", tmp_path / "user"
    path.write_bytes(receipt_of(lead).to_bytes())
    (tmp_path / "reference.json").write_bytes(with_policy(lead.attester.own_reference()).to_json())
    create_home(keys, tmp_path / "reference.json")
    assert main(["explain", str(path), "--home", str(keys), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["receipt"]["verified"], shown["simulated"]) == (True, True)
    assert main(["explain", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "(simulated)" in shown
    assert "NOT VERIFIED" in shown


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the policy lacks the keys"),
        (b"\xff\xfe", "the policy is not TOML"),
        (b"\xa2ab", "not CBOR"),
        (canonical({"body": b"", "signature": b""}), "not CBOR"),
        (canonical({"body": canonical({}), "signature": b""}), "no Chiron receipt of version 2"),
        (POLICY_BYTES + b"\nmore = 1", "unknown keys"),
        (POLICY_BYTES.replace(b"bits = 15", b"bits = 14"), "needs 15 bits"),
        (b"#" * (MAX_BYTES + 1), "neither a policy nor a receipt"),
    ],
)
def test_a_file_that_is_neither_is_named_with_its_problem(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert main(["explain", str(path)]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert words in error


def test_a_missing_file_and_a_needless_home_fail_and_a_second_file_is_wrong_usage(
    lead: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "reference.json").write_bytes(with_policy(lead.attester.own_reference()).to_json())
    create_home(tmp_path / "user", tmp_path / "reference.json")
    (tmp_path / "policy.toml").write_bytes(POLICY_BYTES)
    assert main(["explain", str(tmp_path / "policy.toml"), "--home", str(tmp_path / "user")]) == 1
    assert "leave it away" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["explain", "one", "two"])
    assert ended.value.code == 2
