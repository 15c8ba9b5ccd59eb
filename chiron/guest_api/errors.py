"""The one error root of chiron.guest_api."""


class GuestApiError(Exception):
    """A guest, a data set or their exchange broke a rule; the text names it and the remedy, never data."""


class DatasetError(GuestApiError):
    """A data set does not have the form that its schema promises."""
