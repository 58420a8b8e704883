"""`python -m streams worker`: one stream worker."""

import argparse
import contextlib
import sys
from functools import partial
from pathlib import Path

import faust
from confluent_kafka import KafkaException

from configuration import look
from configuration import options as shared
from configuration.model import Configuration
from schemas import topics
from streams import logs
from streams.app import Settings, create
from streams.engine.failure import EngineFailed, fail
from streams.engine.memory import collect_rarely

EXAMPLES = """examples:
  python -m streams worker --config fleetcert.yaml
  python -m streams worker --bootstrap 127.0.0.1:9092 --data-dir var/worker-0
  python -m streams worker --metrics-port 9464 --session-timeout-seconds 6
"""
OPTIONS = {
    "--bootstrap": "kafka.bootstrap",
    "--data-dir": "worker.dataDir",
    "--snapshots": "worker.snapshots",
    "--application": "worker.group",
    "--metrics-port": "metrics.port",
    "--metrics-host": "metrics.host",
    "--metrics-fleets-max": "metrics.fleetsMax",
    "--tick-seconds": "worker.tickInterval",
    "--clock": "worker.clock",
    "--session-timeout-seconds": "kafka.sessionTimeout",
    "--commit-seconds": "worker.commitInterval",
    "--stall-seconds": "worker.stallTimeout",
    "--batch-max": "worker.batchMax",
    "--room-mebibytes": "worker.roomMebibytes",
}


def main(argv: list[str] | None = None) -> None:
    """Read the options and run until SIGTERM."""
    settings = _settings(shared.read_or_exit(_options(argv), OPTIONS, "worker").configuration)
    logs.configure()
    try:
        with contextlib.suppress(KafkaException):
            cluster = settings.cluster
            topics.check(partial(look.list_topics, cluster), cluster.named)
    except (topics.WrongTopics, look.Refused) as error:
        sys.exit(f"error: {error}")
    collect_rarely()
    try:
        app = create(settings)
    except EngineFailed as error:
        fail(error)
    sys.argv = sys.argv[:1]
    faust.Worker(app, override_logging=False, redirect_stdouts=False).execute_from_commandline()


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m streams",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("role", choices=["worker"])
    shared.add(parser, OPTIONS)
    return parser.parse_args(argv)


def _settings(configuration: Configuration) -> Settings:
    """Return a worker's part of the configuration."""
    worker, kafka, metrics = configuration.worker, configuration.kafka, configuration.metrics
    return Settings(
        cluster=configuration.cluster,
        data_dir=Path(worker.data_dir),
        snapshots=configuration.snapshots,
        application=worker.group,
        metrics_port=metrics.port,
        metrics_host=metrics.host,
        metrics_fleets_max=metrics.fleets_max,
        tick_seconds=worker.tick_interval,
        clock=worker.clock,
        session_timeout_seconds=kafka.session_timeout,
        commit_seconds=worker.commit_interval,
        batch_max=worker.batch_max,
        room_mebibytes=worker.room_mebibytes,
        stall_seconds=worker.stall_timeout,
    )


if __name__ == "__main__":
    main()
