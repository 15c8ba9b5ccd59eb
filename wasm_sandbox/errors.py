"""Errors of the sandbox. A message names rule, limit, size and remedy, never what is in a guest's memory."""


class SandboxError(Exception):
    """Root of every error of this package."""


class GuestRefusedError(SandboxError):
    """The guest breaks a rule that is checked before any of its code runs.

    Args:
        reason: what was found, the limit, and what to change.
        rule: short name of the rule, for example `"imports"`.
    """

    def __init__(self, reason: str, *, rule: str = "guest") -> None:
        super().__init__(f"guest refused ({rule}): {reason}")
        self.reason = reason
        self.rule = rule


class StopGuest(SandboxError):  # noqa: N818 - a decision of the host, not a fault
    """Raised by a host call's handler to end the guest; the run ends as `Ending.STOPPED`."""


class GuestAddressError(StopGuest):
    """The guest passed a pointer and length that do not lie inside its memory."""


class OutputLimitError(StopGuest):
    """The guest handed more bytes to host calls than `Limits.output_bytes`."""


class HostCallLimitError(StopGuest):
    """The guest made more host calls than `Limits.host_calls`."""
