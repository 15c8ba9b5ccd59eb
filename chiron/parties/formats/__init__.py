"""Readers of users' files, one file a format: each gives rows and targets in blocks, never the whole set."""
