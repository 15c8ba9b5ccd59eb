"""`chiron demo`: the whole job on real data, with every party as a command of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.cli.jobs import BAD, follow, why_not
from chiron.cli.output import add_command, add_engine
from chiron.cli.party import describe_offer, describe_receipt
from chiron.installation import check_engine
from chiron.launch.errors import LaunchError
from chiron.launch.runtime import code_root
from chiron.parties.data import load_dataset
from chiron.parties.errors import PartyError
from chiron.parties.platform import Platform, PlatformGoneError
from chiron.training.agreement import Offer
from chiron.training.submission import JobId

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from chiron.cli.output import Commands, Output
    from chiron.installation import EngineName

SEED = 7
QUERIES = 10
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What a demo trains on, and with what: the operator's project, the user's data, the engine."""

    project: str
    data: Path
    engine: EngineName


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "demo",
        help_text="run the whole job on real data on this machine, every party a command of its own",
        example="chiron demo --dataset fashion-mnist --data /usr/share/datasets/fashion-mnist",
    )
    parser.add_argument("--dataset", choices=("digits", "fashion-mnist"), default="digits")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"IDX files (default: {FASHION_FOLDER})")
    parser.add_argument("--home", type=Path, metavar="DIR", help="keep all parties' folders here")
    parser.add_argument(
        "--seed", type=int, default=SEED, help="public seed of the job (default: %(default)s)"
    )
    add_engine(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace, output: Output) -> None:
    """Run the demo in a folder that is removed afterwards, or kept where --home says."""
    check_engine(chosen.engine)
    output.warn_simulated()
    choice = _choice(chosen)
    if chosen.home is not None and chosen.home.exists():
        raise PartyError(f"{chosen.home} exists already: name a new folder")
    kept = (
        nullcontext(str(chosen.home)) if chosen.home else tempfile.TemporaryDirectory(prefix="chiron-demo-")
    )
    with kept as folder:
        Demo(Path(folder), choice, output).run(chosen.seed)


def _choice(chosen: argparse.Namespace) -> Choice:
    if chosen.dataset == "digits":
        return Choice("mlp-c", chosen.data or code_root() / "examples" / "data" / "digits.npz", chosen.engine)
    return Choice("cnn-c", chosen.data or FASHION_FOLDER, chosen.engine)


class Demo:
    """One run of the main job; `platform`, `operator` and `user` each have a folder of their own."""

    def __init__(self, folder: Path, choice: Choice, output: Output) -> None:
        self._folder, self._choice, self._output = folder, choice, output

    def run(self, seed: int) -> None:
        """Build, start, submit, approve, train, query, stop."""
        dataset = load_dataset(self._choice.data)
        project = code_root() / "examples" / self._choice.project
        if not project.is_dir():
            raise PartyError(f"{project} is missing: run the demo from a checkout of the project")
        guest = self._folder / "operator" / "guest.wasm"
        guest.parent.mkdir(parents=True)
        self._chiron("build", str(project), "--output", str(guest))
        with self._platform() as url:
            job = self._agree(url, guest, seed)
            self._train(url, job)
            self._ask(url, job, dataset.held_out_rows[:QUERIES], dataset.held_out_targets[:QUERIES])
            receipt = self._party("operator", url, "receipt", job)[-1] | {"simulated": True}
            self._output.result({"receipt": receipt}, "\n" + describe_receipt(receipt))

    def _agree(self, url: str, guest: Path, seed: int) -> JobId:
        """Both parties trust the reference values, submit and approve."""
        reference = self._folder / "reference.json"
        root = self._folder / "platform" / "simulated-cpu" / "root.pub"
        self._chiron("reference", "--insecure-simulated-root", str(root), "--output", str(reference))
        for who in ("operator", "user"):
            self._chiron(who, "init", "--home", str(self._folder / who), "--reference", str(reference))
        job = JobId(self._party("operator", url, "submit", str(guest), "--seed", str(seed))[-1]["job"])
        self._party("user", url, "submit", job, "--data", str(self._choice.data))
        state = follow(Platform(url), job, self._output, until="Approve")
        if state["state"] in BAD:
            raise PartyError(why_not(state))
        offer = self._party("operator", url, "approve", job, "--yes")[0]
        self._party("user", url, "approve", job, "--yes")
        self._output.result({"offer": offer}, "\n" + describe_offer(Offer.from_dict(offer)) + "\n")
        return job

    def _train(self, url: str, job: JobId) -> None:
        state = follow(Platform(url), job, self._output)
        if state["state"] in BAD:
            raise PartyError(why_not(state))
        metrics = self._party("operator", url, "metrics", job)[-1]
        losses = "  ".join(f"{loss:.2f}" for loss in metrics["losses"])
        text = f"\nloss per epoch     {losses}\ntest accuracy      {metrics['accuracy']:.1%}"
        self._output.result({"metrics": metrics}, text)

    def _ask(self, url: str, job: JobId, rows: Any, targets: Any) -> None:  # noqa: ANN401  numpy arrays
        path = self._folder / "user" / "queries.npy"
        np.save(path, rows)
        answers = self._party("user", url, "query", job, "--input", str(path))[-1]["answers"]
        lines = [
            f"  query {index}: class {answer['class']}  score {answer['score']:.3f}  (truth {target})"
            for index, (answer, target) in enumerate(zip(answers, targets, strict=True))
        ]
        self._output.result({"answers": answers}, "\nten queries of held-out rows\n" + "\n".join(lines))

    def _party(self, who: str, url: str, command: str, *arguments: str) -> list[dict[str, Any]]:
        common = ("--home", str(self._folder / who), "--platform", url)
        return self._chiron(who, command, *common, *arguments)

    def _chiron(self, *arguments: str) -> list[dict[str, Any]]:
        """Run one command as its own process and return its JSON lines; its error is the demo's error."""
        shown = " ".join(argument.replace(str(self._folder), "…") for argument in arguments)
        self._output.say(f"[dim]$ chiron {shown}[/]")
        done = subprocess.run(  # noqa: S603  our own module, no shell
            [sys.executable, "-m", "chiron", *arguments, "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PartyError(_last_error(done.stderr) or f"`chiron {arguments[0]}` failed")
        values = [json.loads(line) for line in done.stdout.splitlines()]
        return [{key: value[key] for key in value if key != "simulated"} for value in values]

    @contextmanager
    def _platform(self) -> Iterator[str]:
        """Run `chiron up` and end it, by its id, whatever happens."""
        home = self._folder / "platform"
        engine = self._choice.engine.value
        command = ["up", "--home", str(home), "--port", "0", "--engine", engine]
        self._output.say(f"[dim]$ chiron {' '.join(command).replace(str(self._folder), '…')}[/]")
        process = subprocess.Popen(  # noqa: S603  our own module, no shell
            [sys.executable, "-m", "chiron", *command, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield _ready_url(process)
        except PlatformGoneError as error:
            _, errors = process.communicate(timeout=STOP_S)  # it is ending its other processes
            raise LaunchError(_last_error(errors) or str(error)) from error
        finally:
            if process.returncode is None:
                process.terminate()
                process.communicate(timeout=STOP_S)


def _ready_url(process: subprocess.Popen[str]) -> str:
    if process.stdout is not None:
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                return str(event["url"])
    errors = process.stderr.read() if process.stderr is not None else ""
    raise LaunchError(_last_error(errors) or "`chiron up` ended before it was ready")


def _last_error(text: str) -> str:
    for line in reversed(text.splitlines()):
        try:
            return str(json.loads(line)["error"])
        except (ValueError, KeyError, TypeError):
            continue
    return ""
