"""What a worker writes to stderr: one JSON object a line, its own words and its libraries'.

The libraries repeat themselves while Kafka is away: aiokafka wrote about 80 lines a second. Of what
one place in their code says, a line passes every SPARING_SECONDS; the next one that passes tells
how many did not, as `unsaid`.
"""

import logging
import sys
import time
from collections.abc import Callable

import structlog

SPARING_SECONDS = 10.0


class Sparing(logging.Filter):
    """Lets one record per place in the code through every `seconds`, and counts the others."""

    def __init__(
        self, seconds: float = SPARING_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._seconds, self._clock = seconds, clock
        self._places: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record passes; what it stands for beside itself is its `unsaid`."""
        now, place = self._clock(), (record.pathname, record.lineno)
        until, unsaid = self._places.get(place, (now, 0))
        if now < until:
            self._places[place] = until, unsaid + 1
            return False
        self._places[place] = now + self._seconds, 0
        if unsaid:
            record.unsaid = unsaid
        return True


def configure() -> None:
    """Set up both loggings, structlog's and Python's. Call once, at the start of a process."""
    said: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    as_json = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*said, as_json], logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Sparing())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(["unsaid"]),
                *said,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, as_json],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
