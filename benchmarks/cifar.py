"""Trains VGG-9 on CIFAR-10 as one worker does: its reader, its order of rows, its augmentation, its engine.

    make bench-cifar DATA=DIR

DIR is the folder of the binary version, as its page offers it: data_batch_1.bin to 5 and test_batch.bin.
Prints loss, images a second and the accuracy on the test images. No exchange and no enclave is around it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from chiron.graph import GraphLimits, Predictor, StockEngine, TensorSpec, admit
from chiron.guest_api.augmentation import Augmentation
from chiron.guest_api.dataset import as_float
from chiron.guest_api.statistics import Statistics
from chiron.parties.data import Format, load_dataset
from chiron.parties.errors import PartyError
from chiron.policy.header import Header
from chiron.training.batches import batches_of
from chiron.training.transformed import Transformed
from paramserver import SGD, LearningRate, RateShape

if TYPE_CHECKING:
    from chiron.graph import AdmittedGraph
    from chiron.guest_api.dataset import Dataset

BATCH, SEED = 64, 7
RATE, MOMENTUM, DECAY = 0.02, 0.9, 5e-4
HEAD_SCALE = 0.1  # of the last layer's first weights: the first steps are small
CROP_PADDING = 4
AT_ONCE = 256


class Vgg9:
    """The network of examples/automl-c: three pairs of convolutions, three dense layers.

    Source: Simonyan and Zisserman, ICLR 2015; weights after He et al., ICCV 2015.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        self._shape, self._classes = shape, classes
        self._random = np.random.default_rng(SEED)
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []
        self._head, self._channels = "x", shape[0]

    def encoded(self) -> bytes:
        """Return the model as a guest would emit it."""
        for filters in (32, 64, 128):
            for _ in range(2):
                self._weighted(
                    "Conv", (filters, self._channels, 3, 3), pads=[1, 1, 1, 1], kernel_shape=[3, 3]
                )
                self._add("Relu")
                self._channels = filters
            self._add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        self._add("Flatten", axis=1)
        inputs = self._channels * (self._shape[1] // 8) * (self._shape[2] // 8)
        for outputs in (128, 128):
            self._weighted("Gemm", (outputs, inputs), transB=1)
            self._add("Relu")
            inputs = outputs
        self._weighted("Gemm", (self._classes, inputs), HEAD_SCALE, transB=1)
        self._nodes[-1].output[0] = "logits"
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *self._shape])
        logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", self._classes])
        graph = helper.make_graph(self._nodes, "vgg9", [x], [logits], self._tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        raw: bytes = model.SerializeToString()
        return raw

    def _add(self, operator: str, *others: str, **attributes: Any) -> None:  # noqa: ANN401
        output = f"t{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(operator, [self._head, *others], [output], name=output, **attributes)
        )
        self._head = output

    def _weighted(self, operator: str, shape: tuple[int, ...], scale: float = 1.0, **attributes: Any) -> None:  # noqa: ANN401
        name = f"w{len(self._tensors)}"
        deviation = scale * np.sqrt(2 / np.prod(shape[1:]))
        weights = (self._random.normal(size=shape) * deviation).astype(np.float32)
        self._tensors.append(numpy_helper.from_array(weights, name))
        self._tensors.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"{name}.b"))
        self._add(operator, name, f"{name}.b", **attributes)


def network(dataset: Dataset) -> AdmittedGraph:
    """Return VGG-9 for a data set, admitted as a guest's graph is."""
    channels, height, width = dataset.schema.shape
    raw = Vgg9((channels, height, width), dataset.schema.classes).encoded()
    spec = TensorSpec(dataset.schema.shape, dataset.schema.classes)
    return admit(raw, spec, limits=GraphLimits(max_bytes=1 << 26, max_parameters=1 << 22, max_batch=BATCH))


def augmentation(dataset: Dataset) -> Augmentation:
    """Return crop, flip and normalisation by the training set's own statistics, channel by channel."""
    statistics = Statistics.of(dataset)
    channels = len(statistics.mean) // dataset.schema.shape[0]
    means = statistics.mean.reshape(-1, channels)
    squares = statistics.squares.reshape(-1, channels) / statistics.seen
    deviation = np.sqrt((squares + np.square(means)).mean(axis=1) - np.square(means.mean(axis=1)))
    mean = means.mean(axis=1) / 255
    return Augmentation(CROP_PADDING, True, tuple(mean.tolist()), tuple((deviation / 255).tolist()))  # noqa: FBT003


def train(dataset: Dataset, *, epochs: int) -> float:
    """Train and return the share of held-out images that the network gets right."""
    admitted, changes = network(dataset), augmentation(dataset)
    header = Header(epochs, BATCH, 1, admitted.parameter_count, 1000, 1000)
    batches = Transformed(batches_of(dataset, header, seed=SEED, index=0), augmentation=changes)
    engine = StockEngine(admitted, batch=BATCH, threads=1)
    engine.parameters[:] = admitted.initial
    each = header.steps_per_epoch(dataset.schema.rows_class)
    rate = LearningRate(
        RATE, RateShape.COSINE, warmup_steps=min(each, epochs * each - 1), steps=epochs * each
    )
    optimiser = SGD(engine.parameters.size, rate=rate, momentum=MOMENTUM, weight_decay=DECAY)
    for epoch in range(epochs):
        began, losses = time.monotonic(), []
        for step in range(epoch * each, (epoch + 1) * each):
            losses.append(engine.run(*batches(step)))
            optimiser.apply(engine.parameters, engine.gradient, step=step)
        speed = each * BATCH / (time.monotonic() - began)
        print(f"epoch {epoch + 1:3}  loss {np.mean(losses):.3f}  {speed:.0f} images/s", flush=True)
    predictor = Predictor(admitted, engine.parameters, threads=1)
    right = 0
    for at in range(0, len(dataset.held_out_rows), AT_ONCE):
        rows = changes.normalise(as_float(dataset.held_out_rows[at : at + AT_ONCE]))
        found = np.argmax(predictor.predict(rows), axis=1)
        right += int(np.count_nonzero(found == dataset.held_out_targets[at : at + AT_ONCE]))
    return right / len(dataset.held_out_rows)


def main() -> int:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="train VGG-9 on CIFAR-10")
    parser.add_argument("data", type=Path, metavar="DIR", help="folder of the binary version")
    parser.add_argument("--epochs", type=int, default=20)
    chosen = parser.parse_args()
    try:
        dataset = load_dataset(chosen.data, form=Format.CIFAR10)
    except PartyError as error:
        print(
            f"{error}; the benchmark needs CIFAR-10's binary version, which Chiron does not bring",
            file=sys.stderr,
        )
        return 1
    print(f"test accuracy {train(dataset, epochs=chosen.epochs):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
