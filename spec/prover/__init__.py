"""Proves the policy in force: `python -m prover` with `spec` on the path, or `make prove`."""
