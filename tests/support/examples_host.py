"""A host that answers an example guest's calls from plain values."""

import hashlib
import struct
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from wasm_sandbox import Ending, GuestMemory, HostCall, Limits, run

LIMITS = Limits(fuel=10**9, memory_bytes=2 << 20)
Arguments = tuple[int, ...]


@dataclass
class Host:
    """Answers a guest's calls from plain values and keeps what it emits."""

    shape: tuple[int, ...] = (8, 8)
    classes: int = 10
    rows: int = 1437
    per_target: tuple[int, ...] = (144,) * 10
    deviation: float = 0.25
    seed: bytes = b"seed"
    header: tuple[int, ...] = ()
    graph: bytes = b""
    plan: tuple[float, ...] = ()
    drawn: int = 0
    logged: list[bytes] = field(default_factory=list)

    def call(self, guest: bytes, export: str) -> int | None:
        calls = {
            "schema": (2, self._schema),
            "header": (2, self._header),
            "log": (2, self._log),
            "random": (2, self._random),
            "statistics": (4, self._statistics),
            "graph": (2, self._graph),
            "plan": (2, self._plan),
        }
        imports = {name: HostCall(count, handler) for name, (count, handler) in calls.items()}
        outcome = run(guest, export=export, imports=imports, limits=LIMITS)
        assert outcome.ending is Ending.RETURNED, outcome.detail
        return outcome.value

    def _schema(self, memory: GuestMemory, arguments: Arguments) -> int:
        dims = (*self.shape, 1, 1)[:3]
        memory.write(arguments[0], struct.pack("<8I", 1, self.rows, len(self.shape), *dims, self.classes, 0))
        return 32

    def _header(self, memory: GuestMemory, arguments: Arguments) -> int:
        self.header = struct.unpack("<6I", memory.read(*arguments))
        return 0

    def _log(self, memory: GuestMemory, arguments: Arguments) -> int:
        self.logged.append(memory.read(*arguments))
        return 0

    def _random(self, memory: GuestMemory, arguments: Arguments) -> int:
        self.drawn += 1
        memory.write(
            arguments[0], hashlib.shake_256(self.seed + bytes([self.drawn % 256])).digest(arguments[1])
        )
        return 0

    def _statistics(self, memory: GuestMemory, arguments: Arguments) -> int:
        kind, _, pointer, capacity = arguments
        answers = {0: (0.5, self.deviation, 0.0, 1.0), 2: self.per_target, 3: (self.rows, 100)}
        data = np.array(answers[kind], dtype="<f4")
        assert data.nbytes <= capacity
        memory.write(pointer, data)
        return data.nbytes

    def _graph(self, memory: GuestMemory, arguments: Arguments) -> int:
        self.graph += memory.read(*arguments)
        return 0

    def _plan(self, memory: GuestMemory, arguments: Arguments) -> int:
        self.plan = struct.unpack("<IIfffIII", memory.read(*arguments))
        return 0

    def values(self) -> dict[str, NDArray[np.float32]]:
        model = onnx.load_from_string(self.graph)
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    def trained(self) -> int:
        return sum(value.size for name, value in self.values().items() if not name.startswith("const."))


def digits() -> Host:
    return Host()


def clothes() -> Host:
    return Host(shape=(1, 28, 28), rows=60_000, per_target=(6000,) * 10)
