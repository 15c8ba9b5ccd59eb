"""Enclaves: Evidence, appraisal, attested channels, envelopes and sealing. Knows no policy and no model.

Only simulated Evidence is made and appraised so far; it protects nothing and says so everywhere.
"""

from enclave.channel import Channel, accept, connect
from enclave.chunks import ChunkIndex, Chunking, ChunkReader, index_chunks, write_chunks
from enclave.envelope import (
    EnvelopeInfo,
    HpkeKey,
    envelope_digest,
    generate_hpke_key,
    read_envelope,
    unwrap_key,
    write_envelope,
)
from enclave.errors import AppraisalError, ChannelError, EnclaveError, EnvelopeError, SealError
from enclave.evidence import Attester, Evidence, EvidenceFormat, Measurement, make_evidence
from enclave.files import write_atomically
from enclave.identity import Identity, make_identity
from enclave.measurement import measure
from enclave.reference import ReferenceValues
from enclave.sealing import seal, unseal
from enclave.simulated import SimulatedAttester, create_simulated_cpu
from enclave.verifier import Claims, appraise

__all__ = [
    "AppraisalError",
    "Attester",
    "Channel",
    "ChannelError",
    "ChunkIndex",
    "ChunkReader",
    "Chunking",
    "Claims",
    "EnclaveError",
    "EnvelopeError",
    "EnvelopeInfo",
    "Evidence",
    "EvidenceFormat",
    "HpkeKey",
    "Identity",
    "Measurement",
    "ReferenceValues",
    "SealError",
    "SimulatedAttester",
    "accept",
    "appraise",
    "connect",
    "create_simulated_cpu",
    "envelope_digest",
    "generate_hpke_key",
    "index_chunks",
    "make_evidence",
    "make_identity",
    "measure",
    "read_envelope",
    "seal",
    "unseal",
    "unwrap_key",
    "write_atomically",
    "write_chunks",
    "write_envelope",
]
