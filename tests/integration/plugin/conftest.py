"""One broker with the plugin for all files of this folder; each test has devices of its own."""

from collections.abc import Iterator

import pytest

from bridges.mqtt.broker.build import build
from tests.integration.plugin.rig import Broker, make_broker, running


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all tests here; one of them kills and starts it."""
    folder = tmp_path_factory.mktemp("broker")
    with running(make_broker(folder, build(folder / "build"), {})) as started:
        yield started
