"""Errors of the parameter server. No text holds a value of a gradient, a parameter or a hyper-parameter."""


class ParamServerError(Exception):
    """Root of everything this package raises on purpose."""


class FrameError(ParamServerError):
    """A received frame breaks a rule of the format or of the exchange.

    Args:
        rule: short name of the broken rule, such as `size` or `slot`.
        detail: what was expected, in sizes and names only.
    """

    def __init__(self, rule: str, detail: str) -> None:
        remedy = "both ends must run the same release and the same job header"
        super().__init__(f"frame refused by rule {rule!r}: {detail}; {remedy}")
        self.rule = rule


class ExchangeError(ParamServerError):
    """The exchange with one worker broke off; its cause is what the channel or the check raised.

    Args:
        worker: index of the worker, from 0.
        slot: the slot it broke off in; None before the first slot.
        slots: how many slots the schedule has.
    """

    def __init__(self, *, worker: int, slot: int | None, slots: int) -> None:
        place = "before the first slot" if slot is None else f"in slot {slot} of {slots}"
        remedy = "check the process at the other end and the link to it, then start the job again"
        super().__init__(f"exchange with worker {worker} broke off {place}: {remedy}")
        self.worker = worker
        self.slot = slot


class DeferredFaultError(ParamServerError):
    """Something failed beside the exchange and was held back until the schedule's end.

    Args:
        stage: `compute` (worker) or `optimiser` (server).
        step: the step it failed at.
        detail: why, without any value.
    """

    def __init__(self, stage: str, *, step: int, detail: str) -> None:
        super().__init__(f"{stage} failed at step {step}: {detail}; the exchange kept its schedule")
        self.stage = stage
        self.step = step
