"""One PKI for the tests of EST."""

import pytest

from tests.coap.rig import Authorities


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """A PKI whose door may vouch for devices."""
    return Authorities(tmp_path_factory.mktemp("est"))
