"""Talks to a platform: its public HTTP interface (untrusted) and, through it, to the lead (appraised)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from chiron.parties.errors import PartyError
from chiron.training.agreement import sign_request
from chiron.training.errors import REMEDIES, Code, TrainingError
from chiron.training.node import ROLE, Role
from chiron.training.wire import canonical, receive_map, send_map
from enclave import ChannelError, connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chiron.parties.home import Home
    from chiron.training.submission import JobId
    from enclave import Channel

TIMEOUT_S = 30.0
MAX_PORT = 65535


class PlatformGoneError(PartyError):
    """Nothing answers at the platform's address."""


class Platform:
    """The platform's HTTP interface. Nothing it says is believed; it carries ciphertext and addresses."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def describe(self) -> dict[str, Any]:
        """Return the platform's description: version, addresses, whether it is simulated."""
        return self._get("/v1/platform")

    def jobs(self) -> list[dict[str, Any]]:
        """Return the public state of all jobs."""
        jobs = self._get("/v1/jobs").get("jobs")
        if not isinstance(jobs, list):
            raise PartyError(self._not_understood())
        return jobs

    def job(self, job: JobId) -> dict[str, Any]:
        """Return one job's public state."""
        return self._get(f"/v1/jobs/{job}")

    def upload(self, job: JobId, kind: str, path: Path) -> None:
        """Store a submission."""
        with path.open("rb") as source:
            self._checked(self._send("PUT", f"/v1/jobs/{job}/{kind}", content=source))

    def address(self, role: Role) -> tuple[str, int]:
        """Return where the platform says an enclave listens."""
        try:
            host, _, port = str(self.describe()["endpoints"][role.value]).rpartition(":")
            number = int(port)
        except (KeyError, TypeError, ValueError) as error:
            raise PartyError(self._not_understood()) from error
        if not 0 < number <= MAX_PORT:
            raise PartyError(self._not_understood())
        return host, number

    def _get(self, path: str) -> dict[str, Any]:
        response = self._checked(self._send("GET", path))
        try:
            answer = response.json()
        except ValueError as error:
            raise PartyError(self._not_understood()) from error
        if not isinstance(answer, dict):
            raise PartyError(self._not_understood())
        return answer

    def _not_understood(self) -> str:
        return f"{self.url} does not answer like a Chiron platform of this version: check --platform"

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401  httpx options
        try:
            return self._client.request(method, path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            text = f"no Chiron platform answers at {self.url} ({type(error).__name__})"
            raise PlatformGoneError(f"{text}: start one with `chiron up`, or give its --platform") from error

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            text = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            text = f"HTTP status {response.status_code}"
        raise PartyError(f"the platform at {self.url} refused: {text}")


@contextmanager
def attested(platform: Platform, home: Home, role: Role) -> Iterator[Channel]:
    """Connect to an enclave and appraise it against the party's own reference values.

    Raises:
        PartyError: it cannot be reached, or its Evidence does not match.
    """
    address = platform.address(role)
    try:
        channel = connect(
            address,
            identity=None,
            reference=home.reference,
            timeout_s=TIMEOUT_S,
            expect={ROLE: role.value.encode()},
        )
    except ChannelError as error:
        raise PartyError(f"the {role.value} at {address[0]}:{address[1]} is not trusted: {error}") from error
    with channel:
        yield channel


def ask_lead(platform: Platform, home: Home, body: dict[str, Any]) -> Any:  # noqa: ANN401  a CBOR value
    """Send one signed request to the appraised lead and return its answer.

    Args:
        platform: where the lead is.
        home: the party's key and reference values.
        body: `ask` and `job`, and what the request needs besides.

    Raises:
        PartyError: the lead is not trusted or refuses; the text says what to do.
    """
    with attested(platform, home, Role.LEAD) as channel:
        signature = sign_request(home.signer, channel.exporter, canonical(body))
        party = home.signer.public_key().public_bytes_raw()
        try:
            send_map(channel, {"party": party, "body": body, "signature": signature})
            answer = receive_map(channel)
        except (ChannelError, TrainingError) as error:
            raise PartyError(f"the connection to the lead broke: {error}") from error
    if "error" in answer:
        code = answer["error"]
        known = code in list(Code)
        raise PartyError(
            f"the lead refused ({code}): {REMEDIES[Code(code)]}" if known else "the lead refused"
        )
    return answer["ok"]
