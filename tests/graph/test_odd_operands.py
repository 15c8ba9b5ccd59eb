"""Operands and attributes of every operator, exchanged for odd ones: refused, or trained with rows apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from operator_cases import CASES
from operator_networks import CLASSES, Case

from chiron.graph import (
    AdmissionError,
    AdmittedGraph,
    GraphLimits,
    TensorSpec,
    admit,
    inference_model,
    training_model,
)
from chiron.graph.operators import OPERATORS
from chiron.graph.runtime import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMITS = GraphLimits(
    max_bytes=1 << 20, max_parameters=1 << 16, max_primitives=2000, max_activation_bytes=1 << 28, max_batch=8
)
FAR = 1 << 62


def dropout() -> tuple[Case, int]:
    case = Case(2, 3)
    case.add("Dropout", case.scalar(0.25), case.values("train", np.ones((), bool)))
    return case, 6


NETWORKS: dict[str, Callable[[], tuple[Case, int]]] = {**CASES, "Dropout": dropout}
CONSTANTS: dict[str, tuple[type[Any], Any]] = {
    "0": (np.int64, 0),
    "-1": (np.int64, -1),
    "true": (np.bool_, True),
    "half": (np.float32, 0.5),
    "infinite": (np.float32, np.inf),
    "no integers": (np.int64, []),
    "no floats": (np.float32, []),
    "no matrix": (np.float32, np.zeros((1, 0, 3))),
    "no rows": (np.float32, np.zeros((0, 1))),
    "vector of 0": (np.int64, [0]),
    "vector of 1": (np.int64, [1]),
    "vector of -2": (np.int64, [-2]),
    "far": (np.int64, [FAR, FAR]),
    "0 and farthest": (np.int64, [0, 1, -(1 << 63)]),
    "integers of rank 2": (np.int64, [[1, 0], [0, 1]]),
    "truths": (np.bool_, [True, False]),
    "floats": (np.float32, [1, 1, 2.5]),
    "infinities": (np.float32, [np.inf, -np.inf]),
    "rank 6": (np.float32, np.ones((1,) * 6)),
}


def _made(operator: str, *inputs: str, name: str = "odd", **attributes: Any) -> NodeProto:  # noqa: ANN401
    return helper.make_node(operator, inputs, [name], **attributes)


_SHAPE = _made("Shape", "x", name="shape")
_LAST = _made("Slice", "shape", "const.1", "const.9", name="last")
COMPUTED: dict[str, list[NodeProto]] = {
    "rows": [_made("Identity", "x")],
    "integer rows": [_made("Cast", "x", to=TensorProto.INT64)],
    "true rows": [_made("Cast", "x", to=TensorProto.BOOL)],
    "merged rows": [_made("Flatten", "x", axis=2)],
    "one number": [_made("ReduceSum", "odd.p", keepdims=0)],
    "a parameter": [_made("Identity", "odd.p")],
    "not a number": [_made("Div", "const.0", "const.0")],
    "shape": [_SHAPE, _made("Identity", "shape")],
    "size": [_made("Size", "x")],
    "negative shape": [_SHAPE, _made("Mul", "shape", "const.-1")],
    "shape times far": [_SHAPE, _made("Mul", "shape", "const.far")],
    "shape turned": [
        _SHAPE,
        _LAST,
        _made("Slice", "shape", "const.00", "const.1", name="first"),
        _made("Concat", "last", "first", axis=0),
    ],
    "many shapes": [_SHAPE, _made("Expand", "shape", "const.many")],
    "one value for all": [_SHAPE, _made("ConstantOfShape", "shape")],
    "nothing of each row": [
        _SHAPE,
        _made("Concat", "const.00", "shape", axis=0, name="s"),
        _made("ConstantOfShape", "s"),
    ],
    "one value for too many": [_made("Expand", "const.0", "const.fars")],
    "left out": [],
}
HELD = {
    "const.0": np.array([0], np.float32),
    "odd.p": np.ones((2, 3), np.float32),
    **{
        f"const.{name}": np.array(values)
        for name, values in {
            "1": [1],
            "9": [9],
            "00": [0],
            "-1": [-1],
            "far": [FAR],
            "fars": [FAR, FAR],
        }.items()
    },
    "const.many": np.array([1 << 16, 1]),
}
ATTRIBUTES: tuple[Any, ...] = (
    0, 1, -1, 2, 7, -(1 << 31), 0.0, 16.0, float("nan"), "VALID", "SAME_LOWER", "bidirectional",
    [0], [2], [0, 1], [63, 63], [1, 2, 0], [1, 1, 1, 1], [1 << 40], [1.5],
)  # fmt: skip


def targets() -> dict[str, tuple[str, int]]:
    """Return one node (its case, its place) of each operator with each number of operands."""
    found: dict[str, tuple[str, int]] = {}
    for case in sorted(NETWORKS):
        for number, node in enumerate(NETWORKS[case]()[0].nodes):
            found.setdefault(f"{node.op_type} of {len(node.input)}", (case, number))
    return found


def networks(model: ModelProto, number: int) -> Iterator[tuple[str, ModelProto]]:
    """Yield a network with each operand and attribute of a node exchanged for each odd one in turn."""
    node = model.graph.node[number]
    for place in range(len(node.input)):
        for odd in [*CONSTANTS, *COMPUTED]:
            changed = ModelProto()
            changed.CopyFrom(model)
            put(changed, odd, number=number, place=place)
            yield f"operand {place}: {odd}", changed
    for name in OPERATORS[node.op_type].attributes:
        for value in ATTRIBUTES:
            changed = ModelProto()
            changed.CopyFrom(model)
            kept = [attribute for attribute in node.attribute if attribute.name != name]
            del changed.graph.node[number].attribute[:]
            changed.graph.node[number].attribute.extend([*kept, helper.make_attribute(name, value)])
            yield f"attribute {name}: {value}", changed


def put(model: ModelProto, odd: str, *, number: int, place: int) -> None:
    """Exchange one operand of a node."""
    graph = model.graph
    if odd in CONSTANTS:
        kind, value = CONSTANTS[odd]
        graph.initializer.append(numpy_helper.from_array(np.array(value, kind), "const.odd"))
    graph.node[number].input[place] = {"left out": ""}.get(odd, "const.odd" if odd in CONSTANTS else "odd")
    made = COMPUTED.get(odd, [])
    for name in sorted({name for each in made for name in each.input} & HELD.keys()):
        graph.initializer.append(numpy_helper.from_array(np.asarray(HELD[name]), name))
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def check_rows_apart(graph: AdmittedGraph) -> None:
    """Check that the first row's logits are the same beside another row."""
    session = open_session(inference_model(graph, graph.initial, batch=2), threads=1)
    rows = np.random.default_rng(1).normal(size=(2, *graph.spec.input_shape)).astype(np.float32)
    (beside,) = session.run(None, {"x": rows})
    rows[1] = 3 * rows[1] + 1
    (other,) = session.run(None, {"x": rows})
    np.testing.assert_allclose(beside[0], other[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", sorted(targets()))
def test_odd_operands_and_attributes_are_refused_or_leave_a_training_step(key: str) -> None:
    case, number = targets()[key]
    build, width = NETWORKS[case]()
    model = ModelProto.FromString(build.finished(width))
    seen: set[str] = set()
    for what, changed in networks(model, number):
        try:
            graph = admit(changed.SerializeToString(), TensorSpec(build.shape, CLASSES), limits=LIMITS)
            same = repr((graph.nodes, *graph.constants.values()))
            if same not in seen:
                open_session(training_model(graph, batch=2), threads=1)
                check_rows_apart(graph)
                seen.add(same)
        except AdmissionError:
            continue
        except Exception as error:
            raise AssertionError(f"{what} of node {number} of {case!r}") from error


def test_every_operator_with_operands_is_given_odd_ones() -> None:
    assert {key.split()[0] for key in targets()} == set(OPERATORS)
