"""`chiron reference`: writes the reference values that Evidence must match."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chiron.cli.output import add_command, add_policy
from chiron.launch.runtime import runtime_measurement
from chiron.policy.loader import load_policy
from chiron.training.node import POLICY
from enclave import EvidenceFormat, ReferenceValues, write_atomically

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "reference",
        help_text="write reference values for this installation's code and policy",
        example="chiron reference --insecure-simulated-root root.pub --output reference.json",
    )
    parser.add_argument(
        "--insecure-simulated-root",
        type=Path,
        required=True,
        metavar="FILE",
        help="trust simulated Evidence of this root key; it proves nothing about hardware",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="where to write them")
    add_policy(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace, output: Output) -> None:
    """Measure this installation and write what its enclaves must show."""
    policy = load_policy(chosen.policy)
    values = ReferenceValues(
        format=EvidenceFormat.SIMULATED,
        measurement=runtime_measurement(),
        root_key=chosen.insecure_simulated_root.read_bytes(),
        require={POLICY: bytes.fromhex(policy.digest)},
    )
    write_atomically(chosen.output, values.to_json())
    output.warn_simulated()
    value = {"measurement": values.measurement, "policy": policy.digest, "output": str(chosen.output)}
    output.result(value, f"measurement {values.measurement}\npolicy      {policy.digest}\nin {chosen.output}")
