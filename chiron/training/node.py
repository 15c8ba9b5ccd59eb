"""What every enclave process of a deployment has: its keys, its Evidence and how it meets the others."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chiron.guest_api.errors import GuestApiError
from chiron.training.errors import TrainingError
from enclave import (
    ChannelError,
    EnclaveError,
    HpkeKey,
    accept,
    connect,
    generate_hpke_key,
    make_identity,
)
from paramserver import ParamServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from chiron.policy.types import Policy
    from enclave import Attester, Channel, Identity, ReferenceValues

HANDSHAKE_S = 10.0
ROLE, POLICY, HPKE, SIGNER = "chiron-role", "chiron-policy", "chiron-hpke", "chiron-signer"
CONNECTION_FAULTS = (TrainingError, GuestApiError, EnclaveError, ParamServerError, OSError)
Address = tuple[str, int]


class Role(StrEnum):
    """The kinds of enclave process."""

    LEAD = "lead"
    SERVER = "server"
    WORKER = "worker"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Node:
    """One enclave process. `emit` tells the platform public facts; it must never be given anything else."""

    role: Role
    policy: Policy
    policy_bytes: bytes
    attester: Attester
    identity: Identity
    peers: ReferenceValues
    signer: Ed25519PrivateKey
    hpke: HpkeKey
    emit: Callable[[dict[str, Any]], None]

    def dial(self, address: Address, role: Role) -> Channel:
        """Connect to another enclave of this deployment and appraise it: same code, same policy, this role.

        Raises:
            ChannelError: it cannot be reached or its Evidence does not hold.
        """
        return connect(
            address,
            identity=self.identity,
            reference=self.peers,
            timeout_s=HANDSHAKE_S,
            expect={ROLE: role.value.encode()},  # ATT-5: the role; `peers` demands code and policy
        )


def make_node(
    role: Role,
    policy: Policy,
    *,
    policy_bytes: bytes,
    attester: Attester,
    emit: Callable[[dict[str, Any]], None],
) -> Node:
    """Make fresh keys and Evidence that binds them, the role and the digest of the policy in force."""
    signer, hpke = Ed25519PrivateKey.generate(), generate_hpke_key()
    statements = {
        ROLE: role.value.encode(),
        POLICY: bytes.fromhex(policy.digest),
        HPKE: hpke.public_bytes,
        SIGNER: signer.public_key().public_bytes_raw(),
    }
    reference = attester.own_reference()
    return Node(
        role=role,
        policy=policy,
        policy_bytes=policy_bytes,
        attester=attester,
        identity=make_identity(attester, statements, now=int(time.time())),
        peers=replace(reference, require={POLICY: statements[POLICY]}),
        signer=signer,
        hpke=hpke,
        emit=emit,
    )


def listen() -> socket.socket:
    """Open a listening socket on an ephemeral loopback port."""
    return socket.create_server(("127.0.0.1", 0))


def serve_connections(
    node: Node, listener: socket.socket, handle: Callable[[Channel], None], *, allow_anonymous: bool
) -> None:
    """Accept connections for ever, each in a thread of its own; a peer that fails appraisal is dropped."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(
            target=_serve_one,
            args=(node, connection, handle),
            kwargs={"anonymous": allow_anonymous},
            daemon=True,
        ).start()


def _serve_one(
    node: Node, connection: socket.socket, handle: Callable[[Channel], None], *, anonymous: bool
) -> None:
    try:
        channel = accept(
            connection,
            identity=node.identity,
            reference=node.peers,
            allow_anonymous=anonymous,
            timeout_s=HANDSHAKE_S,
        )
    except ChannelError:
        node.emit({"event": "rejected", "role": node.role.value})  # which check failed is the peer's to learn
        return
    try:
        with channel:
            handle(channel)
    except CONNECTION_FAULTS:
        node.emit({"event": "dropped", "role": node.role.value})  # no text: the log is the platform's


def peer_role(channel: Channel) -> Role | None:
    """Return the appraised role of the other end, or None for a party (which carries no Evidence)."""
    if channel.peer is None:
        return None
    return Role(channel.peer.statements[ROLE].decode())
