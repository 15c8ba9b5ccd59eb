"""What the commands of operator and user share: options, init, approve, receipt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from chiron.cli.output import add_command, add_policy
from chiron.parties.approval import approve, fetch_offer, fetch_receipt, refuse
from chiron.parties.errors import PartyError
from chiron.parties.home import create_home, open_home
from chiron.parties.platform import Platform
from chiron.policy.kernel import StopReason
from chiron.training.submission import parse_job_id
from enclave import EvidenceFormat, write_atomically

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output
    from chiron.parties.home import Home
    from chiron.training.agreement import Offer
    from chiron.training.submission import JobId

DEFAULT_PLATFORM = "http://127.0.0.1:8470"


def add_home(parser: argparse.ArgumentParser, who: str) -> None:
    """Add --home: the party's key directory."""
    default = Path.home() / ".chiron" / who
    parser.add_argument("--home", type=Path, default=default, help=f"key directory (default: {default})")


def add_platform(parser: argparse.ArgumentParser, who: str) -> None:
    """Add --home and --platform."""
    add_home(parser, who)
    parser.add_argument("--platform", default=DEFAULT_PLATFORM, metavar="URL", help="default: %(default)s")


def add_job(parser: argparse.ArgumentParser, who: str) -> None:
    """Add --home, --platform and the job."""
    add_platform(parser, who)
    parser.add_argument("job", metavar="JOB", help="job id, 32 hexadecimal digits")


def register_shared(group: Commands, who: str) -> None:
    """Add init, approve, refuse and receipt."""
    init = add_command(
        group,
        "init",
        help_text="make a key directory that trusts some reference values",
        example=f"chiron {who} init --reference reference.json",
    )
    add_home(init, who)
    init.add_argument("--reference", type=Path, required=True, metavar="FILE", help="from `chiron reference`")
    add_policy(init)
    init.set_defaults(run=run_init)
    agree = add_command(
        group,
        "approve",
        help_text="show a job's public header and its cost in bits, and approve it",
        example=f"chiron {who} approve JOB",
    )
    add_job(agree, who)
    agree.add_argument("--yes", action="store_true", help="approve without asking")
    agree.set_defaults(run=run_approve)
    disagree = add_command(
        group, "refuse", help_text="refuse a job's offer; the job ends", example=f"chiron {who} refuse JOB"
    )
    add_job(disagree, who)
    disagree.set_defaults(run=run_refuse)
    receipt = add_command(
        group,
        "receipt",
        help_text="fetch and verify a finished job's receipt",
        example=f"chiron {who} receipt JOB --output job.receipt",
    )
    add_job(receipt, who)
    receipt.add_argument("--output", type=Path, metavar="FILE", help="keep the signed receipt")
    receipt.set_defaults(run=run_receipt)


def connection(chosen: argparse.Namespace, output: Output) -> tuple[Platform, Home]:
    """Return platform and key directory of a command; results say so where simulated Evidence is trusted."""
    home = open_home(chosen.home)
    output.simulated = home.reference.format is EvidenceFormat.SIMULATED
    return Platform(chosen.platform), home


def job_of(chosen: argparse.Namespace) -> JobId:
    """Return a command's job id."""
    return parse_job_id(chosen.job)


def run_init(chosen: argparse.Namespace, output: Output) -> None:
    """Make a key directory."""
    home = create_home(chosen.home, chosen.reference, policy=chosen.policy)
    key = home.signer.public_key().public_bytes_raw().hex()
    output.result({"home": str(chosen.home), "key": key}, f"key {key}\nin {chosen.home}")


def run_approve(chosen: argparse.Namespace, output: Output) -> None:
    """Show what a job will say publicly and what it costs in bits, then approve it."""
    platform, home = connection(chosen, output)
    offer = fetch_offer(platform, home, job_of(chosen), policy=home.policy)
    output.result(offer.as_dict(), describe_offer(offer))
    if not chosen.yes and not _agrees():
        raise PartyError("not approved: run the command again with --yes, or `refuse` the job")
    approve(platform, home, offer)
    output.say("approved")


def run_refuse(chosen: argparse.Namespace, output: Output) -> None:
    """Refuse a job's offer; the job ends."""
    platform, home = connection(chosen, output)
    refuse(platform, home, job_of(chosen))
    output.result({"refused": chosen.job}, f"refused job {chosen.job}")


def run_receipt(chosen: argparse.Namespace, output: Output) -> None:
    """Fetch a finished job's receipt, verify it, show it and keep it if asked to."""
    platform, home = connection(chosen, output)
    receipt, fields = fetch_receipt(platform, home, job_of(chosen))
    if chosen.output is not None:
        write_atomically(chosen.output, receipt.to_bytes())
    shown = fields | {"evidence": fields["evidence"].hex()}
    output.result(shown, describe_receipt(fields))


def describe_offer(offer: Offer) -> str:
    """Return an offer in words."""
    fields = offer.as_dict()
    header, bits = fields["header"], fields["bits"]
    rows = [
        f"job       {offer.job}",
        f"policy    {offer.policy[:16]}…",
        f"operator  {offer.operator.hex()[:16]}…   guest {offer.guest[:16]}…",
        f"user      {offer.user.hex()[:16]}…   data  {offer.dataset[:16]}…",
        "public header  " + "  ".join(f"{name} {value}" for name, value in header.items()),
        f"               {fields['slots']} slots: the count and size of frames, whatever the secrets are",
        "may learn of the others' secrets, at most  "
        + "  ".join(f"{name} {count} bits" for name, count in bits.items()),
        *_ledger_rows(offer.ledger),
    ]
    return escape("\n".join(rows))


def _ledger_rows(ledger: dict[str, dict[str, int]]) -> list[str]:
    """Return what earlier jobs on the data set were charged, what this one is, and what is left then."""
    rows = ["ledger of this data set, in bits of it over all jobs"]
    for name, charge in ledger["charge"].items():
        spent, left = ledger["spent"][name], ledger["left"][name]
        rows.append(f"  {name:<9} earlier jobs {spent}  this job {charge}  left then {left}")
    if min(ledger["left"].values(), default=0) < 0:
        rows.append(f"  this job does not fit and will be refused: {StopReason.LEDGER_SPENT.value}")
    return rows


def describe_receipt(fields: dict[str, Any]) -> str:
    """Return a verified receipt in words."""
    offer = fields["offer"]
    bits, charged = (
        "  ".join(f"{name} {count} bits" for name, count in each.items())
        for each in (offer["bits"], fields["charged"])
    )
    rows = [
        f"receipt of job {offer['job']}: {fields['outcome']}",
        f"  guest      SHA-256 {offer['guest']}",
        f"  data set   SHA-256 {offer['dataset']}",
        f"  policy     SHA-256 {offer['policy']}",
        "  header     " + "  ".join(f"{name} {value}" for name, value in offer["header"].items()),
        f"  released   at most {bits}",
        f"  charged    {charged} to the data set's ledger",
        f"  approved   by {len(fields['approvals'])} parties",
        f"  evidence   {'SIMULATED' if fields['simulated'] else 'hardware'}, signature of the lead verified",
        "  private training  off",
    ]
    return escape("\n".join(rows))


def _agrees() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("approve? [y/N] ").strip().lower() in {"y", "yes"}
