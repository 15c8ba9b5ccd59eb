"""The corpus of exported networks is what its list of digests says, and each of it runs."""

from __future__ import annotations

import gzip
import hashlib

import numpy as np
import pytest
from corpus import FOLDER, SUFFIX, load, names
from corpus_marks import marked
from onnx import ModelProto, TensorProto, checker

from chiron.graph.runtime import open_session

MOST_BYTES = 3_000_000
BATCH = 3  # what the fixed batches have
TOKENS = 500  # the smallest vocabulary


def test_the_files_are_those_of_the_list() -> None:
    found = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}" for p in sorted(FOLDER.glob(f"*{SUFFIX}"))
    ]
    assert found == (FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert len(found) > 80


def test_the_table_names_each_file_once() -> None:
    rows = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    assert [row.split("`")[1] for row in rows if row.startswith("| `")] == names()


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob(f"*{SUFFIX}")) < MOST_BYTES


def test_a_network_is_the_same_each_time_and_none_is_that_of_another() -> None:
    first, again, other = load("vgg9.script.train"), load("vgg9.script.train"), load("vgg9.script.eval")
    assert first == again
    weights = [
        [each.raw_data for each in ModelProto.FromString(model).graph.initializer if each.name == "0.weight"]
        for model in (first, other)
    ]
    assert weights[0] != weights[1]


@pytest.mark.parametrize("name", marked())
def test_a_network_is_valid_and_its_logits_are_finite(name: str) -> None:
    model = load(name)
    proto = ModelProto.FromString(model)
    checker.check_model(model)
    (x,), (logits,) = proto.graph.input, proto.graph.output
    assert (x.name, logits.name) == ("x", "logits")
    row = [each.dim_value for each in x.type.tensor_type.shape.dim[1:]]
    random = np.random.default_rng(0)
    tokens = x.type.tensor_type.elem_type == TensorProto.INT64
    shape = (BATCH, *row)
    rows = random.integers(0, TOKENS, shape) if tokens else random.random(shape, dtype=np.float32)
    (answer,) = open_session(model, threads=1).run(["logits"], {"x": rows})
    assert answer.shape[0] == BATCH
    assert np.isfinite(answer).all()
    assert np.abs(answer).max() < 1e6
    assert answer.std() > 0


def test_no_network_holds_a_path_of_the_machine_that_exported() -> None:
    for path in FOLDER.glob(f"*{SUFFIX}"):
        stored = gzip.decompress(path.read_bytes())
        found = [each for each in (b"/tmp/", b"/home/", b"/site-packages/", b"/usr/") if each in stored]
        assert found == [], path.name
