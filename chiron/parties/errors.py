"""The one error root of chiron.parties."""


class PartyError(Exception):
    """A party's command cannot go on; the text says what is wrong and what to do."""
