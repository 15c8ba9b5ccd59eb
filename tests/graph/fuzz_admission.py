"""Fuzzes admission: whatever the bytes are, a graph is admitted or refused, in bounded time and memory.

    python tests/graph/fuzz_admission.py --minutes 60 --seed 1

Guided by coverage (atheris, libFuzzer). Inputs begin as the networks of the operators' tests; a mutation is
either of bytes, or of the model: an operator, attribute, operand, size or value of it is exchanged. What is
admitted must also become a training graph that ONNX's checker accepts. Exit 0 where nothing was found.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests" / "support")]
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import atheris

with atheris.instrument_imports(include=["chiron.graph"]):
    from chiron.graph import AdmissionError, GraphLimits, TensorSpec, admit, training_model
    from chiron.graph.operators import OPERATORS

from onnx import AttributeProto, ModelProto, TensorProto
from operator_cases import CASES

LIMITS = GraphLimits(
    max_bytes=1 << 18, max_parameters=1 << 14, max_nodes=64, max_primitives=1024, max_activation_bytes=1 << 24
)
SPECS = {"": TensorSpec((2, 3), 3)}
SECONDS_AT_MOST, MEGABYTES_AT_MOST = 10, 2048
ATTRIBUTES = ("axis", "axes", "group", "perm", "keepdims")
NUMBERS = (-(1 << 40), -(1 << 31), -2, -1, 0, 1, 2, 3, 4, 7, 64, 65, 1 << 16, 1 << 31, 1 << 40)


def spec_of(raw: bytes) -> TensorSpec:
    """Return the data set that a model says it is for, so that rules behind the interface are reached."""
    try:
        graph = ModelProto.FromString(raw).graph
        rows, logits = graph.input[0].type.tensor_type, graph.output[0].type.tensor_type
        shape = tuple(min(max(d.dim_value, 1), 16) for d in rows.shape.dim[1:6])
        return TensorSpec(shape, min(max(logits.shape.dim[1].dim_value, 1), 16))
    except Exception:  # noqa: BLE001  any bytes
        return SPECS[""]


def target(raw: bytes) -> None:
    """Admit; anything but a graph or a refusal is a finding."""
    try:
        graph = admit(raw, spec_of(raw), limits=LIMITS)
    except AdmissionError:
        return
    training_model(graph, batch=2)


def mutate(raw: bytes, most: int, seed: int) -> bytes:
    """Change bytes, or the model that they are."""
    draw = random.Random(seed)  # noqa: S311  the fuzzer's own seed
    if draw.random() < 0.3:
        return bytes(atheris.Mutate(raw, len(raw)))
    try:
        model = ModelProto.FromString(raw)
        for _ in range(draw.randint(1, 3)):
            change(model, draw)
        changed = model.SerializeToString()
    except Exception:  # noqa: BLE001  no model any more
        return bytes(atheris.Mutate(raw, len(raw)))
    return changed if len(changed) <= most else raw


def change(model: ModelProto, draw: random.Random) -> None:
    """Exchange one thing of a model."""
    graph = model.graph
    node = draw.choice(graph.node)
    match draw.randrange(8):
        case 0:
            node.op_type = draw.choice(sorted(OPERATORS))
        case 1:
            names = ["x", *(t.name for t in graph.initializer), *(n.output[0] for n in graph.node)]
            place, rest = draw.randrange(len(node.input) + 1), draw.randrange(2)
            node.input[:] = [*node.input[:place], draw.choice(names), *node.input[place + rest :]]
        case 2 if node.attribute:
            change_attribute(draw.choice(node.attribute), draw)
        case 3:
            node.attribute.add(name=draw.choice(ATTRIBUTES), type=2, i=draw.choice(NUMBERS))
        case 4 | 5 if graph.initializer:
            change_tensor(draw.choice(graph.initializer), draw)
        case 6:
            copied = graph.node.add()
            copied.CopyFrom(node)
            copied.output[0] = f"n{len(graph.node)}"
            graph.node.insert(draw.randrange(len(graph.node)), graph.node.pop())
        case _:
            rows = graph.input[0].type.tensor_type.shape.dim
            rows[draw.randrange(len(rows))].dim_value = draw.choice((0, 1, 2, 3, 8, 1 << 31))


def change_attribute(attribute: AttributeProto, draw: random.Random) -> None:
    """Exchange an integer, alone or in a list."""
    attribute.i = draw.choice(NUMBERS)
    if attribute.ints:
        attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(NUMBERS)


def change_tensor(tensor: TensorProto, draw: random.Random) -> None:
    """Exchange a size, or a value of eight bytes."""
    values = bytearray(tensor.raw_data)
    if tensor.dims and draw.randrange(2):
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(NUMBERS)
    elif len(values) >= 8:
        at = 8 * draw.randrange(len(values) // 8)
        values[at : at + 8] = draw.choice(NUMBERS).to_bytes(8, "little", signed=True)
        tensor.raw_data = bytes(values)


def seeds(folder: Path) -> int:
    """Write the networks of the operators' tests."""
    for number, build in enumerate(CASES.values()):
        case, width = build()
        (folder / f"{number:03}").write_bytes(case.finished(width))
    return len(CASES)


def main() -> int:
    """Fuzz in a process of its own, which libFuzzer ends."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    limits = {
        "max_total_time": int(60 * chosen.minutes),
        "seed": chosen.seed,
        "timeout": SECONDS_AT_MOST,
        "rss_limit_mb": MEGABYTES_AT_MOST,
        "max_len": LIMITS.max_bytes,
        "print_final_stats": 1,
        "artifact_prefix": f"{Path.cwd()}/found-",
    }
    with tempfile.TemporaryDirectory() as folder:
        begun = seeds(Path(folder))
        sys.stdout.write(f"{begun} networks to begin with, {chosen.minutes:g} minutes\n")
        sys.stdout.flush()
        options = [f"-{name}={value}" for name, value in limits.items()]
        command = [sys.executable, __file__, "--inside", folder, *options]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    if "--inside" in sys.argv:
        sys.argv.remove("--inside")
        atheris.Setup(sys.argv, target, custom_mutator=mutate)
        atheris.Fuzz()
    else:
        sys.exit(main())
