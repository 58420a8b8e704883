"""The one error that the client shows to a user."""


class FleetError(RuntimeError):
    """What was asked cannot be done; the message says why and what to do next."""
