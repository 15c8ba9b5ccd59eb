"""The CIFAR benchmark on small files in CIFAR-10's format, and without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from chiron.parties.formats.cifar import CIFAR10_TEST, CIFAR10_TRAIN, IMAGE_BYTES

CHECKOUT = Path(__file__).resolve().parents[2]


def bench(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.cifar", str(folder), "--epochs", "1"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT)


def test_vgg_9_trains_on_files_in_the_binary_version_and_is_measured(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in (*CIFAR10_TRAIN, CIFAR10_TEST):
        records = random.integers(0, 256, size=(24, 1 + IMAGE_BYTES), dtype=np.uint8)
        records[:, 0] = np.arange(24) % 10
        (tmp_path / name).write_bytes(records.tobytes())
    done = bench(tmp_path)
    assert done.returncode == 0, done.stderr
    loss = float(done.stdout.split("loss ")[1].split()[0])
    assert 1.5 < loss < 5  # of ten targets by chance: log 10 = 2.3
    assert 0 <= float(done.stdout.split("test accuracy ")[1].rstrip("%\n")) <= 100


def test_without_the_files_a_message_says_what_is_needed(tmp_path: Path) -> None:
    done = bench(tmp_path)
    assert done.returncode == 1
    assert "data_batch_1.bin is missing there" in done.stderr
    assert "binary version" in done.stderr
