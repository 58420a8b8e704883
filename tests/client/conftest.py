"""What the client's tests share: an authority."""

from datetime import UTC, datetime

import pytest

from pki import authority


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> authority.Authority:
    """One authority for all tests; nobody changes it."""
    return authority.create(tmp_path_factory.mktemp("pki") / "authority", now=datetime.now(UTC))
