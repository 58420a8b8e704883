"""What the integration suites share: one whole stack, and where Kafka runs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.kafka import engine_answers, kafka_broker
from tests.helpers.stack import RunningStack, running_stack

collect_ignore = [] if engine_answers() else ["test_compose.py"]
"""Without a container engine there is nothing to compose."""
if os.environ.get("FLEETCERT_INTEROP") != "1":
    collect_ignore.append("test_go_coap.py")  # it wants Go, which nothing else here does


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of one Kafka for the whole session; nobody hurts it."""
    with kafka_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.bootstrap


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One whole local stack for the whole session, started by the command line."""
    directory: Path = tmp_path_factory.mktemp("stack")
    with running_stack(directory) as running:
        yield running
