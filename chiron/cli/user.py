"""`chiron user`: what the owner of data runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chiron.cli import party
from chiron.cli.output import add_command, add_group
from chiron.cli.reading import add_data, opened_data
from chiron.guest_api.chunks import layout_of
from chiron.parties.data import load_rows
from chiron.parties.query import ROWS_A_REQUEST, QueryClient, rows_for
from chiron.parties.submit import submit_dataset

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output

WHO = "user"
MANY = 20  # requests that take over a second show a bar


def register(commands: Commands) -> None:
    """Add the command and its parts."""
    group = add_group(commands, WHO, help_text="submit secret data, approve, query the model")
    party.register_shared(group, WHO)
    submit = add_command(
        group,
        "submit",
        help_text="encrypt a data set to the appraised lead and join a job with it",
        example="chiron user submit JOB --data digits.npz",
    )
    party.add_job(submit, WHO)
    add_data(submit)
    submit.add_argument("--classes", type=int, help="number of targets (default: one more than the largest)")
    submit.set_defaults(run=run_submit)
    query = add_command(
        group,
        "query",
        help_text="ask the sealed model; each row spends one answer of the budget",
        example="chiron user query JOB --input rows.npy",
    )
    party.add_job(query, WHO)
    query.add_argument(
        "--input", type=Path, required=True, metavar="FILE", help="NPY file of one or more rows"
    )
    query.set_defaults(run=run_query)


def run_submit(chosen: argparse.Namespace, output: Output) -> None:
    """Submit a data set to a job."""
    platform, home = party.connection(chosen, output)
    job = party.job_of(chosen)
    with opened_data(chosen, classes=chosen.classes) as dataset, output.progress() as progress:
        task = progress.add_task("encrypting the data set", total=layout_of(dataset.schema).plaintext_bytes)
        manifest = submit_dataset(
            platform,
            home,
            dataset=dataset,
            job=job,
            progress=lambda done: progress.update(task, completed=done),
        )
    schema = dataset.schema.as_dict()
    text = f"data set submitted to job {job}\npublic schema  " + "  ".join(
        f"{k} {v}" for k, v in schema.items()
    )
    output.result({"job": job, "dataset": manifest.envelope, "schema": schema}, text)


def run_query(chosen: argparse.Namespace, output: Output) -> None:
    """Query the model with every row of a file."""
    platform, home = party.connection(chosen, output)
    rows = load_rows(chosen.input)
    with QueryClient(platform, home, party.job_of(chosen)) as client:
        shape = tuple(client.metadata()["inputs"][0]["shape"][1:])
        rows = rows_for(rows, shape)
        parts = np.array_split(rows, range(ROWS_A_REQUEST, len(rows), ROWS_A_REQUEST))
        with output.progress() as progress:
            asked = progress.track(parts, description="asking") if len(parts) > MANY else parts
            answers = [answer for part in asked for answer in client.predict(part)]
    value = {"answers": [{"class": a.target, "score": a.score} for a in answers]}
    output.result(value, "\n".join(f"class {a.target}  score {a.score:.3f}" for a in answers))
