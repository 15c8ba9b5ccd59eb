"""The one error root of the package; texts name the step, the rule, the digest and the remedy."""


class EnclaveError(Exception):
    """Root of everything that this package raises on bad input."""


class AppraisalError(EnclaveError):
    """Evidence is not what the reference values demand."""

    def __init__(self, step: int, rule: str) -> None:
        super().__init__(f"appraisal step {step} failed: {rule}")
        self.step = step
        self.rule = rule


class ChannelError(EnclaveError):
    """An attested channel could not be made, or broke."""


class EnvelopeError(EnclaveError):
    """An envelope does not open."""


class SealError(EnclaveError):
    """A sealed blob does not open."""
