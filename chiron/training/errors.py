"""The one error root of chiron.training, and the closed list of codes that travel to parties."""

from __future__ import annotations

from enum import StrEnum


class TrainingError(Exception):
    """A job could not go on; the text names the rule and the remedy, never data."""


class Code(StrEnum):
    """What an enclave tells a party when it refuses. The party's own Chiron turns it into a sentence."""

    UNKNOWN_JOB = "unknown-job"
    NOT_A_PARTY = "not-a-party"
    BAD_REQUEST = "bad-request"
    TOO_EARLY = "too-early"
    TOO_LATE = "too-late"
    STALE_OFFER = "stale-offer"


REMEDIES = {
    Code.UNKNOWN_JOB: "the lead does not hold this job: check the job id, or submit again",
    Code.NOT_A_PARTY: "this key is no party of the job: use the --home that submitted it",
    Code.BAD_REQUEST: "the lead did not understand the request: use the same version of Chiron on both sides",
    Code.TOO_EARLY: "the job has not come that far: try again when `chiron jobs JOB` shows a later phase",
    Code.TOO_LATE: "the job is past that point",
    Code.STALE_OFFER: "the offer changed since you saw it: read it again before you approve",
}


class RefusedError(TrainingError):
    """A request is refused with one of the closed list of codes."""

    def __init__(self, code: Code) -> None:
        super().__init__(f"{code.value}: {REMEDIES[code]}")
        self.code = code
