"""Parameter server: frames of one size on a fixed schedule, optimisers, server and worker ends.

It is handed channels and a clock, and knows neither enclaves nor models.
"""

from paramserver.errors import DeferredFaultError, ExchangeError, FrameError, ParamServerError
from paramserver.frames import Channel, Float32Array, Frame, FrameFormat, Kind
from paramserver.optimisers import SGD, AdamW, LearningRate, Optimiser, RateShape
from paramserver.schedule import Clock, MonotonicClock, Schedule
from paramserver.server import Result, serve
from paramserver.worker import work

__all__ = [
    "SGD",
    "AdamW",
    "Channel",
    "Clock",
    "DeferredFaultError",
    "ExchangeError",
    "Float32Array",
    "Frame",
    "FrameError",
    "FrameFormat",
    "Kind",
    "LearningRate",
    "MonotonicClock",
    "Optimiser",
    "ParamServerError",
    "RateShape",
    "Result",
    "Schedule",
    "serve",
    "work",
]
