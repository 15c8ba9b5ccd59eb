"""The one error root of chiron.launch."""


class LaunchError(Exception):
    """A deployment cannot start or go on; the text says why and what to do."""
