"""The one error root of chiron.serving, and the closed list of what a caller may be told."""

from __future__ import annotations

from enum import Enum


class ServingError(Exception):
    """A model cannot be served; the text names the rule and the remedy."""


class Fault(Enum):  # ERR-2
    """Every error an answer can carry: HTTP status and constant text."""

    BAD_REQUEST = (400, "the request is not an inference request of the Open Inference Protocol v2")
    WRONG_SHAPE = (400, "the input's shape is not the model's: ask for the model's metadata")
    TOO_MANY_ROWS = (400, "too many rows in one request: send at most 16")
    NOT_FINITE = (400, "the input holds NaN, infinity or something that is no number")
    NOT_THE_USER = (403, "the request is not signed with the key of the job's user")
    NOT_FOUND = (404, "there is no such path or model here")
    TOO_LARGE = (413, "the request is too large: send fewer rows")
    BUDGET_SPENT = (429, "the job's budget of answers is spent: agree on a new job")
    NOT_ANSWERED = (500, "the model failed on this request, which counts as answered: try other rows")
    UNAVAILABLE = (503, "the model cannot answer now: its budget could not be committed")

    @property
    def status(self) -> int:
        """HTTP status code."""
        return self.value[0]

    @property
    def text(self) -> str:
        """Constant text."""
        return self.value[1]


class FaultError(ServingError):
    """An answer is an error of the closed list."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault
