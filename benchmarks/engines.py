"""Times the stock engine against ort-training, which cannot share an environment: two processes, by turns.

    python -m benchmarks.engines .venv-ort-training/bin/python

Each process has one thread and steps only when it is its turn. The ratio is the median over pairs of turns:
a busy machine slows both.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from chiron.graph import GraphLimits, TensorSpec, admit, open_engine
from chiron.installation import installed_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx

BATCH, CLASSES = 64, 10
TURNS, TURN_S, SERVE = 15, 0.3, "serve"
LIMITS = GraphLimits(1 << 26, 1 << 23, max_batch=BATCH, max_activation_bytes=4 << 30)
ROOT = Path(__file__).resolve().parents[1]


class Draft:
    """A network in the making: layers on `head`, weights of He's variance."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.head = shape, "x"
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def then(self, operator: str, *others: str, **attributes: Any) -> None:  # noqa: ANN401  any attribute value
        """Add a node on the head."""
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [self.head, *others], [output], **attributes))
        self.head = output

    def weights(self, *shape: int, fan_in: int) -> str:
        """Add an initializer."""
        values = self._random.normal(size=shape) * np.sqrt(2 / fan_in)
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def dense(self, *sizes: int) -> Draft:
        """Add layers of these sizes with Relu between them."""
        for index, (ins, outs) in enumerate(pairwise(sizes)):
            if index:
                self.then("Relu")
            self.then("Gemm", self.weights(ins, outs, fan_in=ins), self.weights(outs, fan_in=outs * 100))
        return self

    def convolution(self, ins: int, outs: int, *, side: int) -> None:
        """Add a convolution that keeps the image's size, and Relu."""
        kernel = self.weights(outs, ins, side, side, fan_in=ins * side * side)
        self.then("Conv", kernel, self.weights(outs, fan_in=outs * 100), pads=[side // 2] * 4)
        self.then("Relu")

    def halve(self) -> None:
        """Add a maximum over windows of 2 by 2."""
        self.then("MaxPool", kernel_shape=[2, 2], strides=[2, 2])

    def encoded(self) -> bytes:
        """Return the model."""
        self.nodes[-1].output[0] = "logits"
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])
        graph = helper.make_graph(self.nodes, "g", [x], [logits], self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        raw: bytes = model.SerializeToString()
        return raw


def mlp() -> Draft:
    """Return 784-512-10."""
    return Draft(784).dense(784, 512, CLASSES)


def lenet() -> Draft:
    """Return two convolutions of 5 by 5 and two layers (LeCun et al., 1998, with Relu and MaxPool)."""
    net = Draft(1, 28, 28)
    for ins, outs in ((1, 20), (20, 50)):
        net.convolution(ins, outs, side=5)
        net.halve()
    net.then("Flatten")
    return net.dense(50 * 7 * 7, 500, CLASSES)


def vgg9() -> Draft:
    """Return six convolutions of 3 by 3 and three layers (after Simonyan and Zisserman, 2015)."""
    net, ins = Draft(3, 32, 32), 3
    for pair in ((32, 64), (128, 128), (256, 256)):
        for outs in pair:
            net.convolution(ins, outs, side=3)
            ins = outs
        net.halve()
    net.then("Flatten")
    return net.dense(256 * 4 * 4, 512, 512, CLASSES)


NETWORKS: dict[str, Callable[[], Draft]] = {"mlp": mlp, "lenet": lenet, "vgg9": vgg9}


def serve() -> None:
    """Be one side: take a network and a file, write a gradient there, time so many steps, until 0; again."""
    tell(installed_engine().value)
    for line in sys.stdin:
        name, path = line.split()
        net = NETWORKS[name]()
        graph = admit(net.encoded(), TensorSpec(net.shape, CLASSES), limits=LIMITS)
        engine = open_engine(graph, batch=BATCH, threads=1)
        random = np.random.default_rng(1)
        x = random.normal(size=(BATCH, *net.shape)).astype(np.float32)
        y = random.integers(0, CLASSES, BATCH)
        engine.run(x, y)
        np.save(path, engine.gradient)
        tell("ready")
        while count := int(sys.stdin.readline()):
            began = time.perf_counter()
            for _ in range(count):
                engine.run(x, y)
            tell((time.perf_counter() - began) / count)


def tell(value: object) -> None:
    """Write one line to the other process."""
    sys.stdout.write(f"{value}\n")
    sys.stdout.flush()


class Side:
    """The other end of `serve`."""

    def __init__(self, python: str, stack: ExitStack) -> None:
        command = [python, "-m", "benchmarks.engines", SERVE]
        process = subprocess.Popen(  # noqa: S603  an interpreter that the caller names
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        stack.enter_context(process)
        self._input, self._output = piped(process.stdin), piped(process.stdout)
        stack.callback(self._input.close)  # which ends it
        self.engine = self._answer()

    def ask(self, question: object) -> str:
        """Send one line and return the answer."""
        self.say(question)
        return self._answer()

    def say(self, line: object) -> None:
        """Send one line."""
        self._input.write(f"{line}\n")
        self._input.flush()

    def _answer(self) -> str:
        line = self._output.readline()
        if not line:
            raise SystemExit("a process ended: its error is above")
        return line.strip()


def piped(pipe: IO[str] | None) -> IO[str]:
    """Return a pipe that was asked for."""
    if pipe is None:
        raise SystemExit("a process has no pipes")
    return pipe


def compare(name: str, sides: Sequence[Side], folder: Path) -> str:
    """Time one network by turns and return its row of the table."""
    files = [folder / f"{name}-{side.engine}.npy" for side in sides]
    for side, path in zip(sides, files, strict=True):
        side.ask(f"{name} {path}")
    one, other = (np.load(path) for path in files)
    slowest = max(float(side.ask(1)) for side in sides)
    count = max(1, int(TURN_S / slowest))
    taken = [[float(side.ask(count)) for side in sides] for _ in range(TURNS)]
    for side in sides:
        side.say(0)
    ratio = statistics.median(mine / its for mine, its in taken)
    rates = [BATCH / statistics.median(column) for column in zip(*taken, strict=True)]
    apart = np.linalg.norm(one - other) / np.linalg.norm(one)
    return f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {ratio:.2f} | {apart:.0e} |"


def main() -> None:
    """Time each network in both processes and print the table."""
    if sys.argv[1:] == [SERVE]:
        serve()
        return
    if len(sys.argv) != 2:  # noqa: PLR2004  the program and its argument
        raise SystemExit("name the other environment's interpreter: .venv-ort-training/bin/python")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [Side(python, stack) for python in (sys.executable, sys.argv[1])]
        print(f"batch {BATCH}, 1 thread, {TURNS} turns, load {os.getloadavg()[0]:.1f}")
        first, second = (f"{side.engine}, images/s" for side in sides)
        print(f"| network | {first} | {second} | second's speed / first's | gradients apart |")
        print("|---|---|---|---|---|")
        for name in NETWORKS:
            print(compare(name, sides, folder), flush=True)


if __name__ == "__main__":
    main()
