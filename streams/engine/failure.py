"""How the engine fails: at once and loudly, so that the supervisor starts the process anew."""

import os
from typing import NoReturn

import structlog

log = structlog.get_logger()

EXIT_FAILED = 3
"""The exit code of a worker whose engine failed."""


class EngineFailed(RuntimeError):
    """The engine cannot go on; the process must end and be started anew. Says what to look at."""


def fail(error: Exception) -> NoReturn:
    """End the process at once: nothing after a failed transaction may be acknowledged."""
    log.error(
        "engine.failed",
        error=str(error),
        kind=type(error).__name__,
        expected=isinstance(error, EngineFailed),
        exc_info=None if isinstance(error, EngineFailed) else error,
    )
    os._exit(EXIT_FAILED)
