"""`chiron explain`: says in plain words who may learn what, when and how many bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from chiron.cli.explain_words import in_words
from chiron.cli.output import add_command
from chiron.parties.errors import PartyError
from chiron.parties.explain import explain_policy, explain_receipt
from chiron.parties.home import open_home
from chiron.policy.loader import load_policy, parse_policy
from chiron.policy.types import PolicyError
from chiron.training.agreement import Receipt
from chiron.training.errors import TrainingError

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output
    from chiron.parties.explain import Facts
    from chiron.parties.home import Home

RECEIPT_START = b"\xa2"  # a CBOR map of two entries (RFC 8949, section 3.1); no TOML text starts so
MAX_BYTES = 1 << 20


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "explain",
        help_text="say in plain words who may learn what, when and how many bits",
        example="chiron explain job.receipt --home ~/.chiron/user",
    )
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="POLICY|RECEIPT",
        help="a policy.toml, or a receipt from `receipt JOB --output` (default: the policy in force)",
    )
    parser.add_argument("--home", type=Path, help="key directory whose reference values verify the receipt")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace, output: Output) -> None:
    """Explain a file, or the policy in force."""
    if chosen.file is None:
        facts = explain_policy(load_policy())
    else:
        facts = explain_file(chosen.file, home=None if chosen.home is None else open_home(chosen.home))
    output.simulated = facts.get("receipt", {}).get("simulated", False)
    output.result(facts, escape(in_words(facts)))


def explain_file(path: Path, *, home: Home | None) -> Facts:
    """Read a policy or a receipt and return what it says.

    Raises:
        PartyError: the file is neither, breaks a rule or does not verify; the text names file and rule.
        OSError: it cannot be read.
    """
    with path.open("rb") as source:
        raw = source.read(MAX_BYTES + 1)
    try:
        return _explain(raw, home)
    except (PartyError, PolicyError, TrainingError) as error:
        raise PartyError(f"{path}: {error}") from error


def _explain(raw: bytes, home: Home | None) -> Facts:
    if len(raw) > MAX_BYTES:
        raise PartyError(f"over {MAX_BYTES} bytes: this is neither a policy nor a receipt")
    if raw.startswith(RECEIPT_START):
        return explain_receipt(Receipt.from_bytes(raw), policy=load_policy(), home=home)
    if home is not None:
        raise PartyError("this is no receipt, and --home verifies receipts only: leave it away")
    return explain_policy(parse_policy(raw))
