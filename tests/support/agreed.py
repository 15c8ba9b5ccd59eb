"""What two parties agreed on for one small job: its data set, header, offer and network."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import CLASSES, POLICY, VALUES, small_dataset
from graphs import linear

from chiron.guest_api.plan import Plan
from chiron.policy.header import Header
from chiron.training.agreement import Offer, make_offer
from chiron.training.create import Network, admit_graph
from chiron.training.submission import JobId, Kind, draft_manifest

JOB = JobId("0" * 32)
HEADER = Header(1, 16, 1, 4096, 5, 1000)
KEY = bytes(32)
DATASET = small_dataset()
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def offer() -> Offer:
    """Return an offer of a job that has both submissions from one signer."""
    manifest = draft_manifest(Kind.GUEST, JOB, signer=SIGNER, seed=7)
    dataset = draft_manifest(Kind.DATASET, JOB, signer=SIGNER, schema=DATASET.schema)
    return make_offer(POLICY, manifest, dataset=dataset, header=HEADER, spent={})


def network() -> Network:
    """Return what a guest may have emitted: a linear network for this data set, and a plan."""
    graph = linear(VALUES, CLASSES)
    plan = Plan("sgd", 0.1, 0.0, 0.0, "constant", 0)
    return Network(graph, admit_graph(graph, HEADER, DATASET.schema), plan)
