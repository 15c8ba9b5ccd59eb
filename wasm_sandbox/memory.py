"""The guest's linear memory as host calls see it: every access is checked against its bounds."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, cast

from wasm_sandbox.errors import GuestAddressError, OutputLimitError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer
    from numpy.typing import NDArray


class GuestMemory:
    """Bounds-checked access to a memory that neither moves nor grows.

    Args:
        view: writable view of the whole memory, one byte an item; owned by this object from now on.
        output_bytes: how many bytes may be read in total before the guest is stopped.
    """

    def __init__(self, view: memoryview, *, output_bytes: int) -> None:
        self._view = view
        self._output_bytes = output_bytes
        self._output_left = output_bytes

    def __len__(self) -> int:
        return len(self._view)

    def read(self, pointer: int, length: int) -> bytes:
        """Copy bytes out of the guest.

        Args:
            pointer: address of the first byte.
            length: number of bytes; 0 reads nothing but still needs a pointer inside or just past the end.

        Raises:
            GuestAddressError: the range does not lie inside the memory.
            OutputLimitError: the run's total would exceed the limit on output.
        """
        self._take(pointer, length)
        return bytes(self._view[pointer : pointer + length])

    def read_into(self, pointer: int, target: WriteableBuffer | NDArray[Any]) -> None:
        """Copy bytes out of the guest into a buffer that is there already, which spares a second copy.

        Args:
            pointer: address of the first byte.
            target: anything with a writable C-contiguous buffer; its size is the number of bytes.

        Raises:
            GuestAddressError: the range does not lie inside the memory.
            OutputLimitError: the run's total would exceed the limit on output.
        """
        into = memoryview(cast("WriteableBuffer", target))
        self._take(pointer, into.nbytes)
        if into.nbytes:
            into.cast("B")[:] = self._view[pointer : pointer + into.nbytes]

    def write(self, pointer: int, data: ReadableBuffer | NDArray[Any]) -> None:
        """Copy bytes, or a C-contiguous array's bytes, into the guest.

        Args:
            pointer: address of the first byte.
            data: bytes or anything with a C-contiguous buffer, such as a numpy array in little-endian order.

        Raises:
            GuestAddressError: the range does not lie inside the memory.
        """
        source = memoryview(cast("ReadableBuffer", data))
        self._check(pointer, source.nbytes)
        if source.nbytes:
            self._view[pointer : pointer + source.nbytes] = source.cast("B")

    def touch_all(self) -> None:
        """Write every page of the host once, so that no page fault depends on what the guest does."""
        self._view[:: mmap.PAGESIZE] = self._view[:: mmap.PAGESIZE]

    def close(self) -> None:
        """Let go of the memory; any later access raises ValueError."""
        self._view.release()

    def _take(self, pointer: int, length: int) -> None:
        self._check(pointer, length)
        if length > self._output_left:
            raise OutputLimitError(
                f"the guest handed out more than {self._output_bytes} bytes: emit less or raise output_bytes"
            )
        self._output_left -= length

    def _check(self, pointer: int, length: int) -> None:
        if pointer < 0 or length < 0 or pointer + length > len(self._view):
            raise GuestAddressError(
                f"{length} bytes at address {pointer} do not lie inside the memory of {len(self._view)} bytes"
            )
