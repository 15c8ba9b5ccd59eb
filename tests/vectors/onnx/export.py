"""Exports the corpus: real architectures as PyTorch, Keras and Spox write them, weights taken out.

    PYTHONPATH=tests/support python tests/vectors/onnx/export.py [NAME ...]

needs an environment of its own; tests/vectors/README.md lists its packages.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import images
import images_mobile
import numpy as np
import onnx
import sequences
import torch
from corpus import DRAWN, FOLDER, SUFFIX, names, tensors
from table import table
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT_VALUES = 300
MACHINE_PATH = re.compile(rb"/[\w./+-]*/(site-packages/|(?=[\w-]+\.py))")
BATCH = 3
DYNAMO_TRAIN, DYNAMO, SCRIPT_TRAIN, SCRIPT = "dynamo.train", "dynamo.eval", "script.train", "script.eval"
ALL = (DYNAMO_TRAIN, DYNAMO, SCRIPT_TRAIN, SCRIPT)
NEW = (DYNAMO_TRAIN, DYNAMO)
STATIC = ".static"  # the batch is a number
PLAIN = ".plain"  # with optimize=False


@dataclass(frozen=True, slots=True)
class Network:
    """One architecture: how it is built, one row's shape, and the ways it is exported.

    `tokens` is the vocabulary's size where the input is int64.
    """

    build: Callable[[], nn.Module]
    row: tuple[int, ...]
    ways: tuple[str, ...] = NEW
    tokens: int = 0


SMALL, MIDDLE, LARGE = (3, 32, 32), (3, 64, 64), (3, 224, 224)
TEXT = (sequences.LENGTH,)
NETWORKS = {
    "lenet": Network(images.lenet, (1, 28, 28), (*ALL, DYNAMO + STATIC, SCRIPT + STATIC)),
    "lenet_view": Network(images.View, (1, 28, 28), (*NEW, SCRIPT, SCRIPT + STATIC, DYNAMO_TRAIN + PLAIN)),
    "vgg9": Network(images.vgg9, SMALL, ALL),
    "vgg9_bn": Network(images.vgg9_bn, SMALL, (*ALL, DYNAMO_TRAIN + PLAIN)),
    "vgg16": Network(images.vgg16, SMALL, (DYNAMO_TRAIN, SCRIPT_TRAIN)),
    "alexnet": Network(images.alexnet, LARGE),
    "resnet20": Network(images.resnet20, SMALL, (*ALL, DYNAMO_TRAIN + STATIC, DYNAMO_TRAIN + PLAIN)),
    "resnet50": Network(images.resnet50, LARGE, ALL),
    "mobilenet_v2": Network(images_mobile.mobilenet_v2, LARGE, ALL),
    "mobilenet_v3_small": Network(images_mobile.mobilenet_v3, MIDDLE, (*ALL, DYNAMO_TRAIN + PLAIN)),
    "efficientnet_b0": Network(images_mobile.efficientnet, MIDDLE),
    "densenet121": Network(images.densenet121, MIDDLE, (DYNAMO_TRAIN, SCRIPT_TRAIN)),
    "densenet_small": Network(images.densenet_small, SMALL),
    "squeezenet": Network(images.squeezenet, MIDDLE, (*NEW, SCRIPT_TRAIN)),
    "unet": Network(images_mobile.unet, (1, 64, 64), (DYNAMO_TRAIN, SCRIPT_TRAIN)),
    "unet_resize": Network(images_mobile.unet_resize, (1, 64, 64), (*NEW, SCRIPT_TRAIN)),
    "vit": Network(
        images_mobile.ViT,
        SMALL,
        (*ALL, DYNAMO_TRAIN + STATIC, SCRIPT_TRAIN + STATIC, DYNAMO_TRAIN + PLAIN),
    ),
    "mixer": Network(images_mobile.mixer, SMALL, ALL),
    "convnext_tiny": Network(images_mobile.convnext, MIDDLE, (*NEW, SCRIPT_TRAIN, DYNAMO_TRAIN + PLAIN)),
    "separable": Network(images_mobile.separable, MIDDLE),
    "resnet_group_norm": Network(images.resnet_group_norm, SMALL, (*ALL, DYNAMO_TRAIN + PLAIN)),
    "instance_norm": Network(images.instance_norm, MIDDLE, (*ALL, DYNAMO_TRAIN + PLAIN)),
    "text_transformer": Network(sequences.TextTransformer, TEXT, (*NEW, SCRIPT_TRAIN), tokens=1000),
    "plain_transformer": Network(sequences.PlainTransformer, TEXT, (*ALL, DYNAMO_TRAIN + PLAIN), tokens=1000),
    "lstm_text": Network(sequences.LSTMText, TEXT, (*NEW, SCRIPT), tokens=1000),
    "gru_series": Network(sequences.GRUSeries, (20, 8), ALL),
    "tabular": Network(sequences.Tabular, (10,), (*ALL, DYNAMO_TRAIN + PLAIN)),
    "conv1d": Network(sequences.conv1d, (3, 128), ALL),
    "mlp": Network(sequences.mlp, (1, 28, 28), ALL),
}


def main(wanted: list[str]) -> None:
    """Export what the arguments name (all without any), then write digests and table."""
    for name, export in exports():
        if wanted and not any(name.startswith(each) for each in wanted):
            continue
        model = export()
        path = FOLDER / f"{name}{SUFFIX}"
        path.write_bytes(gzip.compress(stripped(model), 9, mtime=0))
        print(f"{name}: {path.stat().st_size} bytes")  # noqa: T201
    paths = sorted(FOLDER.glob(f"*{SUFFIX}"))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    (FOLDER / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    (FOLDER / "README.md").write_text(table(names()), encoding="utf-8")


def exports() -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """Yield the name and the export of each model."""
    for name, network in NETWORKS.items():
        for way in network.ways:
            yield f"{name}.{way}", partial(export_torch, network, way)
    from keras_networks import KERAS  # noqa: PLC0415  Keras takes seconds to import
    from spox_networks import SPOX  # noqa: PLC0415

    yield from ((f"{name}.keras.eval", export) for name, export in KERAS.items())
    yield from ((f"{name}.spox.train", export) for name, export in SPOX.items())


def export_torch(network: Network, way: str) -> onnx.ModelProto:
    """Export by one of PyTorch's two exporters."""
    torch.manual_seed(0)
    model = initialised(network.build())
    model.train("train" in way)
    x = torch.rand(BATCH, *network.row)
    if network.tokens:
        x = torch.randint(0, network.tokens, (BATCH, *network.row))
    static = way.endswith(STATIC)
    if way.startswith("dynamo"):
        shapes = None if static else ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(
            model, (x,), input_names=["x"], output_names=["logits"], dynamic_shapes=shapes,
            external_data=False, verbose=False, optimize=not way.endswith(PLAIN),
        )  # fmt: skip
        proto: onnx.ModelProto = program.model_proto
        return proto
    return export_by_script(model, x, static=static)


def export_by_script(model: nn.Module, x: Tensor, *, static: bool) -> onnx.ModelProto:
    """Export by the exporter that traces TorchScript."""
    modes = torch.onnx.TrainingMode
    buffer = io.BytesIO()
    torch.onnx.export(
        model, (x,), buffer, dynamo=False, input_names=["x"], output_names=["logits"],
        training=modes.TRAINING if model.training else modes.EVAL,
        do_constant_folding=not model.training,
        dynamic_axes=None if static else {"x": {0: "batch"}, "logits": {0: "batch"}},
    )  # fmt: skip
    model_proto: onnx.ModelProto = onnx.ModelProto.FromString(buffer.getvalue())
    return model_proto


def initialised(model: nn.Module) -> nn.Module:
    """Draw weights evenly, with He's variance; give normalisations statistics that are not 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -1.0, 1.0)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            nn.init.uniform_(module.weight, 0.9, 1.1)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for module in model.modules():
        if isinstance(module, images.Residual) and isinstance(module.body[-1], nn.BatchNorm2d):
            nn.init.uniform_(module.body[-1].weight, 0.2, 0.3)  # else sums double from block to block
    return model


def stripped(model: onnx.ModelProto) -> bytes:
    """Serialize without the values of large float tensors, and without paths of the machine that exported."""
    for tensor in tensors(model):
        values = onnx.numpy_helper.to_array(tensor)
        if values.size > KEPT_VALUES and np.issubdtype(values.dtype, np.floating):
            if tensor.doc_string or tensor.external_data:
                raise ValueError(f"{tensor.name} already has a doc_string, or its values lie elsewhere")
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.doc_string = f"{DRAWN} {values.min():.6g} {values.max():.6g}"
    for props in metadata(model):
        props.value = MACHINE_PATH.sub(rb"\1", props.value.encode()).decode()
    for node in model.graph.node:
        node.doc_string = MACHINE_PATH.sub(rb"\1", node.doc_string.encode()).decode()
    return bytes(model.SerializeToString(deterministic=True))


def metadata(model: onnx.ModelProto) -> Iterator[onnx.StringStringEntryProto]:
    """Yield every metadata property of model, graph, nodes, values and initializers."""
    graph = model.graph
    holders = [model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]
    for function in model.functions:
        holders += [function, *function.node, *function.value_info]
    for holder in holders:
        yield from holder.metadata_props


if __name__ == "__main__":
    main(sys.argv[1:])
