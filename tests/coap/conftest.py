"""One PKI for all tests of CoAP in this process."""

import pytest

from tests.coap.rig import Authorities


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """A device CA, a service CA, and certificates of every kind."""
    return Authorities(tmp_path_factory.mktemp("coap"))
