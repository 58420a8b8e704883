"""The one error that the local stack shows to a user."""


class LocalError(Exception):
    """Something on this machine stops the local stack; the text says what to do next."""
