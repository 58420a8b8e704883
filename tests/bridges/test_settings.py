"""The bridge's way to its broker: what the configuration gives, and how a mistake is told."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridges.mqtt.settings import door
from configuration.iot import Mqtt
from configuration.source import InvalidConfiguration
from pki import authority


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a service CA, a certificate and its key."""
    made, now = tmp_path_factory.mktemp("settings"), datetime.now(UTC)
    opened = authority.create(made / "pki", now=now)
    certificate, key = authority.issue_service(
        opened, "bridge", ["localhost"], now=now, days=1, server=False, client=True
    )
    (made / "bridge.pem").write_bytes(certificate)
    (made / "bridge.key").write_bytes(key)
    (made / "ca.pem").write_bytes((made / "pki" / "service-ca" / "ca.pem").read_bytes())
    return made


def own(folder: Path, **changes: object) -> Mqtt:
    """Return the section with the folder's identity."""
    tls: dict[str, object] = {"cert": f"{folder}/bridge.pem", "key": f"{folder}/bridge.key"}
    tls |= {"ca": [f"{folder}/ca.pem"], **changes}
    said = {"host": "broker.example", "servicePort": 8885, "bridgeKeepalive": 7, "tls": tls}
    return Mqtt.model_validate(said)


def test_a_door_verifies_the_broker(folder: Path) -> None:
    """Host, port and keep-alive are the section's; the context verifies and speaks 1.3."""
    made = door(own(folder))
    assert (made.host, made.port, made.keep_alive_seconds) == ("broker.example", 8885, 7)
    context = made.context()
    assert context.check_hostname
    assert context.minimum_version.name == "TLSv1_3"
    assert len(context.get_ca_certs()) == 1


def test_pem_may_stand_in_the_configuration_itself(folder: Path) -> None:
    """Texts in place of paths, and more than one authority."""
    cert, key, ca = ((folder / one).read_text() for one in ("bridge.pem", "bridge.key", "ca.pem"))
    made = door(own(folder, cert=cert, key=key, ca=[f"{folder}/ca.pem", ca]))
    assert len(made.ca) == 2
    made.context()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ca": ["/none.pem"]}, r"iot.mqtt.tls: .*No such file"),
        ({"key": "ca.pem"}, "iot.mqtt.tls: "),
        ({"cert": None, "key": None, "ca": []}, "cert, key and ca are missing"),
    ],
)
def test_what_cannot_be_used_is_told(folder: Path, changes: dict[str, object], said: str) -> None:
    """The message names the section and what is wrong."""
    with pytest.raises(InvalidConfiguration, match=said):
        door(own(folder, **changes))
