"""`python -m streams worker`: one stream worker."""

import argparse
import contextlib
import logging
import sys
from pathlib import Path

import faust
import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas import topics
from streams.app import Settings, create
from streams.engine.memory import collect_rarely

EXAMPLES = """examples:
  python -m streams worker --bootstrap 127.0.0.1:9092 --data-dir var/worker-0
  python -m streams worker --metrics-port 9464 --session-timeout-seconds 6
"""


def main(argv: list[str] | None = None) -> None:
    """Read the options and run until SIGTERM."""
    options = _options(argv)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        with contextlib.suppress(KafkaException):
            topics.check(AdminClient({"bootstrap.servers": options.bootstrap}).list_topics)
    except topics.WrongTopics as error:
        sys.exit(f"error: {error}")
    collect_rarely()
    app = create(
        Settings(**{name: value for name, value in vars(options).items() if name != "role"})
    )
    sys.argv = sys.argv[:1]
    faust.Worker(app, loglevel=logging.WARNING, redirect_stdouts=False).execute_from_commandline()


def _options(argv: list[str] | None) -> argparse.Namespace:
    """Read the options: beside `role`, each is named as its field of Settings."""
    parser = argparse.ArgumentParser(
        prog="python -m streams",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("role", choices=["worker"])
    defaults = Settings()
    parser.add_argument("--bootstrap", default=defaults.bootstrap, help="Kafka's host:port")
    parser.add_argument("--data-dir", type=Path, default=defaults.data_dir)
    parser.add_argument("--snapshots", type=Path, default=defaults.snapshots)
    parser.add_argument("--application", default=defaults.application, help="the consumer group")
    parser.add_argument("--metrics-port", type=int, default=0, help="0: no endpoint")
    parser.add_argument(
        "--metrics-host", default=defaults.metrics_host, help="who may ask: this machine"
    )
    parser.add_argument(
        "--metrics-fleets-max",
        type=int,
        default=defaults.metrics_fleets_max,
        help="fleets that have a label of their own; the others are added up",
    )
    parser.add_argument("--tick-seconds", type=float, default=defaults.tick_seconds)
    parser.add_argument(
        "--session-timeout-seconds", type=float, default=defaults.session_timeout_seconds
    )
    parser.add_argument("--commit-seconds", type=float, default=defaults.commit_seconds)
    parser.add_argument("--stall-seconds", type=float, default=defaults.stall_seconds)
    parser.add_argument("--batch-max", type=int, default=defaults.batch_max)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
