"""One job inside the enclaves: lead, parameter server and workers, from submissions to the sealed model."""
