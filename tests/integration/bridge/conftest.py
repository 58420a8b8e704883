"""One Kafka, one mosquitto and one bridge for all files of this folder."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.bridge.rig import Bridge, Rig, running_rig


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One rig for the session; each test has devices of its own."""
    with running_rig(tmp_path_factory.mktemp("bridge")) as running:
        yield running


@pytest.fixture
async def bridge(rig: Rig) -> Bridge:
    """The one bridge that runs; a test that ended the last one gets another."""
    return await rig.the_bridge()


@pytest.fixture
async def alone(rig: Rig) -> AsyncIterator[Bridge]:
    """A bridge for a test that hurts it; it ends well on SIGTERM, unless the test has ended it."""
    rig.end_the_bridge()
    started = await rig.bridge("bridge-a")
    yield started
    if started.process.poll() is None:
        assert started.end() == 0, started.text()
