"""Starts enclave processes and keeps the platform's books. Untrusted: it sees ciphertext and public facts."""
