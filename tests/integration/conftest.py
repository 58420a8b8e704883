"""What the integration suites share: one whole stack, and where Kafka runs."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pki import authority
from pki.authority import Authority
from tests.helpers.kafka import engine_answers, kafka_broker
from tests.helpers.stack import RunningStack, running_stack

signal.signal(signal.SIGINT, signal.default_int_handler)
"""Shells start what runs in the background with SIGINT ignored, and children inherit that."""

collect_ignore = [] if engine_answers() else ["test_compose.py"]
"""Without a container engine there is nothing to compose."""


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of one Kafka for the whole session; nobody hurts it."""
    with kafka_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.bootstrap


@pytest.fixture(scope="session")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Somebody else's authority: its device CA is the stack's provisioning CA."""
    folder = tmp_path_factory.mktemp("maker") / "pki"
    return authority.create(folder, now=datetime.now(UTC))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, maker: Authority) -> Iterator[RunningStack]:
    """One whole local stack for the whole session, started by the command line.

    Its configuration names a provisioning CA, and lets nobody in by it.
    """
    directory: Path = tmp_path_factory.mktemp("stack")
    config, trusted = directory / "given.yaml", maker.directory / "device-ca" / "ca.pem"
    config.write_text(f"iot: {{security: {{provisioning: {{ca: [{trusted}]}}}}}}\n")
    with running_stack(directory, config=config) as running:
        yield running


@pytest.fixture(scope="module")
def short_grace(stack: RunningStack) -> Iterator[None]:
    """Let the old certificate go a second after the new one is proven."""
    with stack.under(replace(stack.fleet.partition_row(0).policy, grace_ms=1_000)):
        yield
