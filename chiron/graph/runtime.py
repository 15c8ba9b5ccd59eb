"""The only file that imports ONNX Runtime, with its telemetry switched off before the import."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from chiron.graph.errors import GraphError

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # 1.32 phones home otherwise; nothing else stops it

import onnxruntime as ort

if TYPE_CHECKING:
    import numpy as np

FATAL_ONLY = 4


def open_session(model: bytes, *, threads: int, as_written: bool = False) -> ort.InferenceSession:
    """Load a model on the CPU.

    Args:
        model: an ONNX model of this package's own making.
        threads: threads inside an operator; operators run one after the other.
        as_written: run the model's nodes as they stand and in their order, which frees tensors soonest. What
            ONNX Runtime makes of several nodes runs after all that is ready; what it finds twice is kept from
            the first to the last use; and it would put a product's transpose back into the product.

    Raises:
        GraphError: ONNX Runtime refuses it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = FATAL_ONLY
    options.use_deterministic_compute = True
    options.enable_mem_pattern = False  # one block for a whole step would lie beside the first step's pieces
    options.enable_mem_reuse = False  # what a later tensor will take over would be held until then
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise GraphError(f"ONNX Runtime does not load the graph ({type(error).__name__})") from error


def bind_array(array: np.ndarray[Any, np.dtype[Any]]) -> Any:  # noqa: ANN401  ONNX Runtime ships no types
    """Return ONNX Runtime's view of a contiguous array, without a copy; the array must outlive it."""
    return ort.OrtValue.ortvalue_from_numpy(array)


def differentiate(model: bytes, *, loss: str, wanted: set[str]) -> bytes:
    """Return a model that computes what this one does, and as `NAME_grad` the loss's gradient of some inputs.

    Args:
        model: an ONNX model of this package's own making.
        loss: the name of its scalar output.
        wanted: names of inputs.

    Raises:
        GraphError: this ONNX Runtime is not onnxruntime-training, or it has no gradient for an operator.
    """
    try:
        from onnxruntime.capi._pybind_state import GradientGraphBuilder  # noqa: PLC0415  not in stock
    except ImportError as error:
        text = "the engine ort-training needs onnxruntime-training-cpu: make test-ort-training installs it"
        raise GraphError(text) from error
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    try:
        builder = GradientGraphBuilder(model, {loss}, wanted, loss, options)
        builder.build()
        made: bytes = builder.get_model()
    except Exception as error:  # ONNX Runtime's errors share no public base class
        text = f"onnxruntime-training makes no gradient graph ({type(error).__name__})"
        raise GraphError(f"{text}: it knows fewer operators than the stock engine; use that") from error
    return made
