"""Attack: the guest hides the user's rows in all that it writes; its operator gets what the platform holds.

The whole point of the three parties: the guest may write what it likes after it has seen data, and no two of
operator and platform together can read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from canaries import Canary, find, float_canaries
from deployments import POLICY, deployment, small_dataset
from guests import guest
from jobs import HEADER, Job

from chiron.parties.submit import new_job_id, submit_dataset, submit_guest

if TYPE_CHECKING:
    from pathlib import Path

# Reads the first two rows, then writes them as graph, as plan, into the log and once more as header.
COPIES = """(drop (call $batch (i32.const 0) (i32.const 2) (i32.const 1024) (i32.const 64)))
  (drop (call $graph (i32.const 1024) (i32.const 64)))
  (drop (call $plan (i32.const 1024) (i32.const 32)))
  (drop (call $log (i32.const 1024) (i32.const 64)))
  (drop (call $header (i32.const 1024) (i32.const 24)))"""


def test_nothing_of_the_data_is_in_what_they_have_together(tmp_path: Path) -> None:
    dataset, job = small_dataset(seed=99), new_job_id()
    with deployment(tmp_path) as running:
        operator, user = running.home(), running.home()
        binary = guest(create=COPIES, header=HEADER)
        submit_guest(running.platform(), operator, policy=POLICY, guest=binary, job=job, seed=7)
        submit_dataset(running.platform(), user, dataset=dataset, job=job)
        both = Job(running, job, operator, user, dataset)
        assert both.run()["outcome"] == "failed"
        told = {
            question: repr(both.ask(operator, question)).encode()
            for question in ("log", "metrics", "receipt")
        }
        told["events"] = repr(running.events.of(job)).encode()
    files = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(name.endswith(".dataset") for name in files)
    canaries = [each for row in (0, 1) for each in float_canaries(f"row {row}", dataset.rows[row])]
    canaries.append(Canary("both rows", dataset.rows[:2].tobytes()[:48]))
    assert find(canaries, files | told) == []


def test_the_search_would_find_them() -> None:
    dataset = small_dataset(seed=99)
    canaries = float_canaries("row 0", dataset.rows[0])
    assert find(canaries, {"log": b"x" + dataset.rows[0].tobytes() + b"y"}) != []
