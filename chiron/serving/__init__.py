"""The query enclave: Open Inference Protocol v2 in answers of one size, on a time grid, within a budget."""
