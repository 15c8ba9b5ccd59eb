"""Appraisal: every step fails with its own number when what it checks is broken."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enclave import (
    AppraisalError,
    EnclaveError,
    Evidence,
    EvidenceFormat,
    Measurement,
    ReferenceValues,
    SimulatedAttester,
    appraise,
    create_simulated_cpu,
    make_evidence,
    measure,
)
from enclave.evidence import report_data_for
from enclave.simulated import SIGNATURE_DOMAIN, quote_body
from enclave.verifier import CLOCK_SKEW_S, NONCE

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000
MEASUREMENT = Measurement("ab" * 32)
STATEMENTS = {"role": b"lead", NONCE: b"n" * 32}


@pytest.fixture
def attester(tmp_path: Path) -> SimulatedAttester:
    create_simulated_cpu(tmp_path / "cpu")
    return SimulatedAttester(tmp_path / "cpu", MEASUREMENT, now=lambda: NOW)


def forged(body: object, key: Ed25519PrivateKey) -> bytes:
    raw = body if isinstance(body, bytes) else cbor2.dumps(body)
    return cbor2.dumps([raw, key.sign(SIGNATURE_DOMAIN + raw)])


def fails(
    step: int, evidence: Evidence, reference: ReferenceValues, *, now: int = NOW, text: str = ""
) -> None:
    with pytest.raises(AppraisalError) as caught:
        appraise(evidence, reference, nonce=STATEMENTS[NONCE], now=now)
    assert caught.value.step == step
    assert text in str(caught.value)
    assert "simulated" in str(caught.value)  # nobody may take it for a real enclave's


def test_good_evidence_gives_claims_that_say_simulated(attester: SimulatedAttester) -> None:
    reference = replace(attester.own_reference(), require={"role": b"lead"})
    claims = appraise(make_evidence(attester, STATEMENTS), reference, nonce=STATEMENTS[NONCE], now=NOW)
    assert (claims.simulated, claims.measurement, claims.issued_at) == (True, MEASUREMENT, NOW)
    assert (claims.format, claims.statements) == (EvidenceFormat.SIMULATED, STATEMENTS)


def test_step_1_another_format_is_refused(attester: SimulatedAttester) -> None:
    evidence = make_evidence(attester, STATEMENTS)
    other = type("Format", (), {"value": "sgx-dcap"})()
    text = "failed: the simulated Evidence is chiron-sim-insecure, accepted is sgx-dcap: use reference values"
    fails(1, evidence, replace(attester.own_reference(), format=other), text=text)


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        (b"", "the simulated quote is malformed: quote: "),
        (b"\xff", "the simulated quote is malformed: quote: "),
        (cbor2.dumps([b"only one"]), "the simulated quote is malformed: it is not [body, signature]"),
        (cbor2.dumps({"a": 1}), "the simulated quote is malformed: it is not [body, signature]"),
        (cbor2.dumps([b"no cbor \xff", b"signature"]), "the simulated quote is malformed: quote body: "),
        (
            cbor2.dumps([cbor2.dumps({"format": "x"}), b"s"]),
            "a simulated quote has exactly the fields ['format', 'issued_at', 'measurement', 'report_data']",
        ),
        (
            cbor2.dumps([quote_body(MEASUREMENT, bytes(64), NOW).replace(b"insecure", b"secure!!"), b"s"]),
            "the quote's own format is not the simulated one",
        ),
        (
            cbor2.dumps([quote_body(Measurement(""), bytes(64), NOW).replace(b"\x60", b"\x01"), b"s"]),
            "a field of the simulated quote has the wrong type",
        ),
    ],
)
def test_step_2_a_malformed_quote_is_refused(quote: bytes, text: str, attester: SimulatedAttester) -> None:
    evidence = replace(make_evidence(attester, STATEMENTS), quote=quote)
    fails(2, evidence, attester.own_reference(), text=f"failed: {text}")


def test_step_3_another_root_or_a_changed_quote_is_refused(attester: SimulatedAttester) -> None:
    evidence, reference = make_evidence(attester, STATEMENTS), attester.own_reference()
    text = "failed: the simulated quote is not signed by the root key in the reference values"
    fails(3, evidence, replace(reference, root_key=bytes(range(32))), text=text)
    fails(3, evidence, replace(reference, root_key=b"short"))
    body, signature = cbor2.loads(evidence.quote)
    changed = cbor2.loads(body) | {"issued_at": NOW + 1}
    fails(3, replace(evidence, quote=cbor2.dumps([cbor2.dumps(changed), signature])), reference)
    fails(3, replace(evidence, quote=forged(body, Ed25519PrivateKey.generate())), reference)


def test_step_4_another_measurement_is_refused(attester: SimulatedAttester) -> None:
    reference = replace(attester.own_reference(), measurement=Measurement("cd" * 32))
    text = f"failed: the simulated enclave measures {'ab' * 32}, not {'cd' * 32}: it runs other code than you"
    fails(4, make_evidence(attester, STATEMENTS), reference, text=text)


def test_step_5_statements_that_the_quote_does_not_bind_are_refused(attester: SimulatedAttester) -> None:
    evidence = make_evidence(attester, STATEMENTS)
    swapped = make_evidence(attester, {**STATEMENTS, "role": b"worker"}).statements
    text = "failed: the simulated quote does not bind these statements"
    fails(5, replace(evidence, statements=swapped), attester.own_reference(), text=text)


@pytest.mark.parametrize(
    "statements", [b"\xff", cbor2.dumps({"role": 7}), cbor2.dumps([1]), b"\xbf\x61\x61\x41\x62\xff"]
)
def test_step_6_statements_that_are_no_deterministic_map_are_refused(
    statements: bytes, attester: SimulatedAttester
) -> None:
    quote = attester.attest(report_data_for(statements))
    text = "failed: the simulated Evidence is malformed: "
    evidence = Evidence(EvidenceFormat.SIMULATED, quote, statements)
    fails(6, evidence, attester.own_reference(), text=text)


def test_step_7_a_missing_or_different_statement_is_refused(attester: SimulatedAttester) -> None:
    for require in ({"role": b"worker"}, {"policy": b""}):
        text = f"failed: the simulated enclave does not state the required {next(iter(require))!r}"
        reference = replace(attester.own_reference(), require=require)
        fails(7, make_evidence(attester, STATEMENTS), reference, text=text)


@pytest.mark.parametrize("nonce", [{}, {NONCE: b"old nonce"}])
def test_step_8_a_missing_or_old_nonce_is_refused(
    nonce: dict[str, bytes], attester: SimulatedAttester
) -> None:
    text = "failed: the simulated Evidence does not carry the nonce of this connection: it is not fresh"
    fails(8, make_evidence(attester, nonce), attester.own_reference(), text=text)


def test_step_9_evidence_is_refused_one_second_past_its_age_and_from_the_future(
    attester: SimulatedAttester,
) -> None:
    evidence, reference = make_evidence(attester, STATEMENTS), attester.own_reference()
    for now in (NOW + reference.max_age_s, NOW - CLOCK_SKEW_S):
        appraise(evidence, reference, nonce=None, now=now)
    age_s = reference.max_age_s
    fails(
        9, evidence, reference, now=NOW + age_s + 1, text=f"is {age_s + 1} s old, allowed are {age_s}: check"
    )
    fails(9, evidence, reference, now=NOW - CLOCK_SKEW_S - 1, text=f"is {-CLOCK_SKEW_S - 1} s old")


def test_evidence_survives_its_encoding_and_other_bytes_are_refused(attester: SimulatedAttester) -> None:
    evidence = make_evidence(attester, STATEMENTS)
    assert Evidence.from_bytes(evidence.to_bytes()) == evidence
    for raw in (b"", b"\x80", cbor2.dumps(["sgx", b"", b""]), bytes(1 << 17), evidence.to_bytes() + b"\0"):
        with pytest.raises(EnclaveError):
            Evidence.from_bytes(raw)


def test_reference_values_survive_their_file_and_unknown_or_missing_fields_are_errors(
    attester: SimulatedAttester,
) -> None:
    values = replace(attester.own_reference(), require={"policy": b"\1\2"})
    assert ReferenceValues.from_json(values.to_json()) == values
    fields = json.loads(values.to_json())
    broken = [{**fields, "extra": 1}, {k: v for k, v in fields.items() if k != "require"}]
    broken += [{**fields, "format": "any"}, {**fields, "measurement": "AB"}, {**fields, "root_key": "00"}]
    broken += [{**fields, "measurement": 5}, {**fields, "format": []}, {**fields, "require": {"a": 5}}]
    broken += [{**fields, "max_age_s": age} for age in (-1, True, "7", 1.5, float("inf"), None)]
    twice = values.to_json().replace(b'"max_age_s"', b'"max_age_s": 9999999, "max_age_s"')
    for content in (b"", b"[]", b"[" * 100_000, twice, *(json.dumps(each).encode() for each in broken)):
        with pytest.raises(EnclaveError):
            ReferenceValues.from_json(content)


def test_nothing_is_simulated_inside_a_real_enclave(tmp_path: Path) -> None:
    create_simulated_cpu(tmp_path / "cpu")
    device = tmp_path / "attestation_type"
    device.write_text("dcap")
    with pytest.raises(EnclaveError, match="inside a real enclave nothing is simulated"):
        SimulatedAttester(tmp_path / "cpu", MEASUREMENT, real_device=device)


def test_a_simulated_cpu_keeps_its_keys_to_its_owner_and_is_never_overwritten(tmp_path: Path) -> None:
    create_simulated_cpu(tmp_path / "cpu")
    assert {(tmp_path / "cpu" / name).stat().st_mode & 0o777 for name in ("root.key", "sealing.key")} == {
        0o600
    }
    with pytest.raises(FileExistsError):
        create_simulated_cpu(tmp_path / "cpu")
    with pytest.raises(EnclaveError, match="missing or damaged"):
        SimulatedAttester(tmp_path / "other", MEASUREMENT)


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_has_exactly_64_bytes(size: int, attester: SimulatedAttester) -> None:
    with pytest.raises(ValueError, match=f"64 bytes, not {size}"):
        attester.attest(bytes(size))


def test_sealing_keys_differ_by_purpose_measurement_and_cpu_and_are_stable(tmp_path: Path) -> None:
    keys = []
    for cpu in ("a", "b"):
        create_simulated_cpu(tmp_path / cpu)
        for measurement in (MEASUREMENT, Measurement("cd" * 32)):
            attester = SimulatedAttester(tmp_path / cpu, measurement)
            keys += [attester.sealing_key("one"), attester.sealing_key("two")]
            assert attester.sealing_key("one") == keys[-2]
    assert len(set(keys)) == len(keys) == 8


def test_a_measurement_changes_with_names_and_bytes_and_not_with_time_or_compiled_files(
    tmp_path: Path,
) -> None:
    root = tmp_path / "code"
    (root / "__pycache__").mkdir(parents=True)
    (root / "a.py").write_text("x = 1")
    first = measure([root], extra={"numpy": "2"})
    (root / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    (root / "a.py").touch()
    assert measure([root], extra={"numpy": "2"}) == first
    assert measure([root], extra={"numpy": "3"}) != first
    (root / "a.py").write_text("x = 2")
    second = measure([root], extra={"numpy": "2"})
    (root / "a.py").rename(root / "b.py")
    assert len({first, second, measure([root], extra={"numpy": "2"})}) == 3
    with pytest.raises(EnclaveError, match="no folder"):
        measure([root / "none"], extra={})


def test_a_linked_folder_that_would_shadow_a_measured_file_is_refused(tmp_path: Path) -> None:
    """Python prefers the package `verifier` to verifier.py, and no walk looks behind the link."""
    root, elsewhere = tmp_path / "code", tmp_path / "elsewhere"
    for folder in (root, elsewhere):
        folder.mkdir()
    (root / "verifier.py").write_text("honest = True")
    (elsewhere / "__init__.py").write_text("honest = False")
    measure([root], extra={})
    (root / "verifier").symlink_to(elsewhere)
    with pytest.raises(EnclaveError, match="is a link and cannot be measured"):
        measure([root], extra={})
