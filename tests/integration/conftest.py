"""What the integration suites share: one Kafka, and one whole stack."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.kafka import engine_answers, kafka_for_tests
from tests.helpers.stack import RunningStack, running_stack

ENGINE = engine_answers()
collect_ignore = [] if ENGINE else ["test_compose.py"]
"""Without a container engine there is nothing to compose; deploy/run-tests says which way it is."""


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of one Kafka for the whole session."""
    with kafka_for_tests(tmp_path_factory.mktemp("kafka")) as bootstrap:
        yield bootstrap


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One whole local stack for the whole session, started by the command line."""
    directory: Path = tmp_path_factory.mktemp("stack")
    with running_stack(directory) as running:
        yield running
