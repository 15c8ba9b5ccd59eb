"""Asks a served model: Open Inference Protocol v2 over the attested channel to the query enclave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import h11
import numpy as np

from chiron.parties.errors import PartyError
from chiron.parties.platform import attested
from chiron.training.agreement import sign_request
from chiron.training.node import Role
from enclave import ChannelError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from chiron.guest_api.dataset import Float32Array
    from chiron.parties.home import Home
    from chiron.parties.platform import Platform
    from chiron.training.submission import JobId
    from enclave import Channel

READ_BYTES = 1 << 16
ROWS_A_REQUEST = 16


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer: the most likely class and its rounded score."""

    target: int
    score: float


class QueryClient:
    """One appraised connection to the query enclave. A context manager."""

    def __init__(self, platform: Platform, home: Home, job: JobId) -> None:
        self._opening: AbstractContextManager[Channel] = attested(platform, home, Role.QUERY)
        self._home, self._job = home, job
        self._connection = h11.Connection(h11.CLIENT)

    def __enter__(self) -> Self:
        self._channel = self._opening.__enter__()
        signature = sign_request(self._home.signer, self._channel.exporter, b"").hex()
        key = self._home.signer.public_key().public_bytes_raw().hex()
        self._authorization = f"Chiron {key}:{signature}"
        return self

    def __exit__(self, *exc: object) -> None:
        self._opening.__exit__(None, None, None)

    def metadata(self) -> dict[str, Any]:
        """Return the model's metadata: shapes of input and answer.

        Raises:
            PartyError: the enclave refuses or the connection breaks.
        """
        return self.request("GET", f"/v2/models/{self._job}")

    def predict(self, rows: Float32Array) -> list[Prediction]:
        """Return one prediction a row.

        Args:
            rows: float32, shape (n, *shape), n at most 16.

        Raises:
            PartyError: the enclave refuses (the text says why) or the connection breaks.
        """
        tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
        answer = self.request("POST", f"/v2/models/{self._job}/infer", {"inputs": [tensor]})
        targets, scores = (output["data"] for output in answer["outputs"])
        return [Prediction(int(t), float(s)) for t, s in zip(targets, scores, strict=True)]

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one HTTP request and return the JSON answer.

        Raises:
            PartyError: the answer is an error of the closed list, or the connection breaks.
        """
        content = b"" if body is None else json.dumps(body).encode()
        try:
            status, raw = self._exchange(method, path, content)
        except (ChannelError, h11.ProtocolError) as error:
            raise PartyError(f"the connection to the query enclave broke: {type(error).__name__}") from error
        answer: dict[str, Any] = json.loads(raw)
        if status != 200:  # noqa: PLR2004  HTTP OK
            raise PartyError(f"the query enclave refused ({status}): {answer['error']}")
        return answer

    def _exchange(self, method: str, path: str, content: bytes) -> tuple[int, bytes]:
        headers = {
            "host": "chiron",
            "authorization": self._authorization,
            "content-type": "application/json",
            "content-length": str(len(content)),
        }
        head = h11.Request(method=method, target=path, headers=list(headers.items()))
        events = (head, h11.Data(data=content), h11.EndOfMessage())
        self._channel.send(b"".join(self._connection.send(event) or b"" for event in events))
        status, body = 0, bytearray()
        while True:
            event = self._connection.next_event()
            match event:
                case h11.NEED_DATA:
                    self._connection.receive_data(self._channel.recv(READ_BYTES))
                case h11.Response(status_code=code):
                    status = code
                case h11.Data(data=data):
                    body += data
                case h11.EndOfMessage():
                    self._connection.start_next_cycle()
                    return status, bytes(body)
                case _:
                    raise h11.RemoteProtocolError("the answer ended early")


def rows_for(query: Float32Array, shape: tuple[int, ...]) -> Float32Array:
    """Return a query as rows of the model's shape; a single row may come without its first dimension.

    Raises:
        PartyError: the shape is another; names both.
    """
    rows = np.asarray(query, dtype=np.float32)
    if rows.shape == shape:
        rows = rows[np.newaxis]
    if rows.shape[1:] != shape:
        raise PartyError(
            f"the query has shape {rows.shape}, the model takes (n, {', '.join(map(str, shape))})"
        )
    return rows
