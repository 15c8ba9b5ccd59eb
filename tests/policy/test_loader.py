"""The policy file: strict parsing, dangling names, bits and caps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.policy.header import Header, encode_header, size_class
from chiron.policy.loader import load_policy, parse_policy, spec_folder
from chiron.policy.releases import data_set_bits, header_bits, job_bits
from chiron.policy.types import Label, PolicyError, Principal

RAW = (spec_folder() / "policy.toml").read_bytes()
POLICY = load_policy()
HEADER = Header(epochs=5, batch=16, workers=2, parameters=4096, slot_ms=5, create_ms=1000)
owners = st.frozensets(st.sampled_from([Principal("operator"), Principal("user"), Principal("other")]))


def changed(old: str, new: str) -> bytes:
    text = RAW.decode()
    assert old in text
    return text.replace(old, new, 1).encode()


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("version = 1", "version = 2", "version 2 is unknown"),
        ("version = 1", "version = 1\nextra = 3", "unknown keys ['extra']"),
        ('name = "chiron-train-and-serve"\n', "", "lacks the keys ['name']"),
        (
            'label = ["operator"]\n\n',
            'label = ["operator"]\nmore = 1\n\n',
            "[guest] has unknown keys ['more']",
        ),
        ('next = "Approve"', 'next = "Nowhere"', "the undeclared phase: ['Nowhere']"),
        ('read = "dataset"', 'read = "files"', "the undeclared source: ['files']"),
        ('write = "graph"', 'write = "disk"', "the undeclared sink: ['disk']"),
        ('frames = ["operator_log"]', 'frames = ["tape"]', "the undeclared sink: ['tape']"),
        ('release = ["answer"]', 'release = ["shout"]', "the undeclared declassifier: ['shout']"),
        ('dataset = ["user"]', 'dataset = ["nobody"]', "the undeclared principal: ['nobody']"),
        ('dataset = ["user"]', "dataset = 3", "a list of names was expected"),
        ("bits = 15", "bits = 14", "needs 15 bits for the menus"),
        ("uses = 1000", "uses = 1001", "observer 'user' may learn 16032 bits, over its leak cap"),
        ("bytes = 64\n", "bytes = -64\n", "'plan' must be a whole number"),
        ("ticks = 1\n", "ticks = 0\n", "[phases.Configure] must last at least one tick"),
        ("workers = [1, 2]", "workers = [2, 1]", "the menu 'workers' must be a rising list"),
        (
            'write = "plan"',
            'write = "plan"\nread = "seed"',
            "[calls.plan] must have either 'read' or 'write'",
        ),
        ("ticks = 1\n", "ticks = [1]\n", "'Configure' must be a whole number"),
        ("[limits]\n", "[limits]\nspare = 1\n", "[limits] has unknown keys ['spare']"),
        ("version = 1", "version = ", "is not TOML"),
        ("charge = true", "charge = 1", "'Approve' must be true or false"),
        ("operator = 8110 ", "# operator = 8110 ", "the undeclared ledger cap: ['operator']"),
        ("platform = 16 ", "somebody = 16 ", "the undeclared observer: ['somebody']"),
        ("[guest]\n", "[sources.guest]\n", "lacks the keys ['guest']"),
        ("[observers]\n", "observers = 4\n[nothing]\n", "unknown keys ['nothing']"),
    ],
)
def test_a_broken_policy_is_refused_with_the_rule_that_it_breaks(old: str, new: str, rule: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(rule)):
        parse_policy(changed(old, new))


def test_a_section_of_the_wrong_type_is_refused() -> None:
    text = re.sub(r"\[observers\](.*?)\n\n", "", RAW.decode(), flags=re.DOTALL)
    with pytest.raises(PolicyError, match="wrong type"):
        parse_policy(b"observers = 4\n" + text.encode())


def test_a_missing_file_is_named_with_the_reason() -> None:
    with pytest.raises(PolicyError, match=r"none\.toml cannot be read: No such file"):
        load_policy(Path("none.toml"))


def test_the_digest_covers_every_byte_of_the_file() -> None:
    assert parse_policy(RAW + b"\n").digest != POLICY.digest == parse_policy(RAW).digest


def test_an_observer_is_charged_only_for_secrets_that_are_not_its_own() -> None:
    operator = POLICY.observers["operator"]
    number = encode_header(POLICY.menus, HEADER)
    assert job_bits(POLICY, operator) == 1 + 10 + 8 * 100
    assert header_bits(POLICY, operator, header=number, rows_class=64) == 1 + 10 + 8 * 5
    assert header_bits(POLICY, POLICY.observers["platform"], header=number, rows_class=64) == 15 + 1


def test_the_ledger_counts_what_is_released_of_the_data_set() -> None:
    number = encode_header(POLICY.menus, HEADER)
    bits = data_set_bits(POLICY, header=number, rows_class=64)
    assert bits == {"operator": 1 + 10 + 8 * 5, "user": 1 + 16 * 1000, "platform": 1}


@given(owners, owners, owners)
def test_labels_form_a_lattice(
    a: frozenset[Principal], b: frozenset[Principal], c: frozenset[Principal]
) -> None:
    left, right, bound = Label(a), Label(b), Label(c)
    joined = left.join(right)
    assert left.flows_to(joined)
    assert right.flows_to(joined)
    assert joined.flows_to(bound) == (left.flows_to(bound) and right.flows_to(bound))
    assert Label().flows_to(left)


def test_a_header_off_its_menu_is_refused_by_name() -> None:
    with pytest.raises(PolicyError, match="header field 'batch' must be one of"):
        encode_header(POLICY.menus, Header(1, 17, 1, 4096, 5, 1000))


@given(st.integers(0, 2**32))
def test_a_size_class_is_at_most_an_eighth_larger_and_stable(count: int) -> None:
    rounded = size_class(count)
    assert max(count, 1) <= rounded <= max(count, 1) * 9 / 8
    assert size_class(rounded) == rounded


def test_the_steps_of_an_epoch_cover_the_size_class() -> None:
    assert Header(1, 32, 2, 4096, 5, 1000).steps_per_epoch(1472) == 23
    assert Header(1, 32, 2, 4096, 5, 1000).steps_per_epoch(1473) == 24
