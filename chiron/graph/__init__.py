"""ONNX admission, the gradient graph in standard operators, and the engines that run it."""

from chiron.graph.admission import admit
from chiron.graph.admitted import AdmittedGraph, GraphLimits, Parameter, TensorSpec
from chiron.graph.engine import Engine, StockEngine
from chiron.graph.engines import open_engine
from chiron.graph.errors import AdmissionError, GraphError, Rule
from chiron.graph.gradient import training_model
from chiron.graph.loss import Loss, LossKind
from chiron.graph.ort_training import OrtTrainingEngine
from chiron.graph.predictor import Predictor
from chiron.graph.statistics import normalised_by_batch, settled
from chiron.graph.writer import inference_model

__all__ = [
    "AdmissionError",
    "AdmittedGraph",
    "Engine",
    "GraphError",
    "GraphLimits",
    "Loss",
    "LossKind",
    "OrtTrainingEngine",
    "Parameter",
    "Predictor",
    "Rule",
    "StockEngine",
    "TensorSpec",
    "admit",
    "inference_model",
    "normalised_by_batch",
    "open_engine",
    "settled",
    "training_model",
]
