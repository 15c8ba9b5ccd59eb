"""A leak test in one call, for the command line, the pytest plugin and one's own scripts."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from chiron.guest_api.limits import compile_guest, load_guest
from chiron.leaktest.report import describe
from chiron.leaktest.search import EXAMPLES, Report, search
from chiron.leaktest.secrets import SCHEMAS
from chiron.leaktest.selfcheck import SABOTAGES
from chiron.leaktest.two_runs import Subject, is_created
from chiron.parties.data import schema_of
from chiron.policy.loader import load_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chiron.guest_api.dataset import Schema


class LeakError(AssertionError):
    """An observer can tell two runs apart, or the test is inconclusive. The text is the report."""


@contextmanager
def subject_of(
    guest: Path | str | bytes,
    *,
    observer: str = "operator",
    data: Path | str | None = None,
    schema: Schema | None = None,
    policy: Path | str | None = None,
) -> Iterator[Subject]:
    """Compile a guest and load it for as many runs as wanted.

    Args:
        guest: the binary, or its file.
        observer: who looks: operator, user or platform; the secrets are those of the others.
        data: a data set whose schema is used.
        schema: the schema itself; without either the first of `SCHEMAS` on which its job comes to `create`.
        policy: a policy file; the installed one by default.

    Raises:
        GuestRefusedError, PartyError, PolicyError, OSError: guest, data or policy cannot be used.
    """
    rules = load_policy(None if policy is None else Path(policy))
    binary = guest if isinstance(guest, bytes) else Path(guest).read_bytes()
    schemas = SCHEMAS if schema is None else (schema,)
    if data is not None:
        schemas = (schema_of(Path(data)),)
    with load_guest(rules, compile_guest(rules, binary)) as loaded:
        subjects = [Subject(loaded, binary, rules, each, observer) for each in schemas]
        yield next((each for each in subjects if is_created(each)), subjects[0])


def check(
    guest: Path | str | bytes,
    *,
    observer: str = "operator",
    examples: int = EXAMPLES,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
    data: Path | str | None = None,
    schema: Schema | None = None,
    policy: Path | str | None = None,
) -> Report:
    """Compare the two runs of `examples` pairs of secrets; arguments as for `subject_of` and `search`.

    Raises:
        LeakError: there is a difference, or the test is inconclusive.
    """
    with subject_of(guest, observer=observer, data=data, schema=schema, policy=policy) as subject:
        report = search(subject, examples=examples, seed_=seed, progress=progress)
    if report.leak is not None or report.inconclusive:
        raise LeakError(describe(report))
    return report


def selfchecked(
    guest: Path | str | bytes,
    *,
    observer: str = "operator",
    examples: int = EXAMPLES,
    seed: int = 0,
    data: Path | str | None = None,
    schema: Schema | None = None,
    policy: Path | str | None = None,
) -> list[str]:
    """Sabotage the runtime in each way that the observer should notice; return those that go unnoticed."""
    missed = []
    with subject_of(guest, observer=observer, data=data, schema=schema, policy=policy) as subject:
        for sabotage in SABOTAGES:
            if observer in sabotage.observers:
                with sabotage.on():
                    report = search(subject, examples=examples, seed_=seed)
                missed += [] if report.leak is not None else [sabotage.what]
    return missed
