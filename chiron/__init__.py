"""Chiron: privacy-preserving machine learning as a service. Composes the mechanisms under the policy."""

__version__ = "0.1.0"
