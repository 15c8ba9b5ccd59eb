"""Attack: a graph whose initialisers lie in a file of the platform's, so that trusted code opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from graphs import linear

from chiron.graph import AdmissionError, GraphLimits, TensorSpec, admit

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = GraphLimits(max_bytes=1 << 16, max_parameters=4096)
SPEC = TensorSpec((8,), 3)


def external(location: str) -> bytes:
    model = onnx.load_from_string(linear(8, 3))
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(8 * 3 * 4))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    raw: bytes = model.SerializeToString()
    return raw


@pytest.mark.parametrize("place", ["weights.bin", "../../etc/passwd", "/etc/passwd", "/dev/zero", ""])
def test_a_file_is_never_opened(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.ones(24, np.float32).tobytes())
    before = (tmp_path / "weights.bin").stat().st_atime_ns
    with pytest.raises(AdmissionError) as error:
        admit(external(place), SPEC, limits=LIMITS)
    assert "passwd" not in str(error.value)
    assert (tmp_path / "weights.bin").stat().st_atime_ns == before


def test_the_same_graph_with_its_values_inside_is_admitted() -> None:
    assert admit(linear(8, 3), SPEC, limits=LIMITS).parameter_count == 24
