"""The settings of a bridge's way to its broker: what is accepted, and how a mistake is told."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridges.mqtt.settings import InvalidSettings, read
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


GOOD = """\
host: broker.example
port: 8884
clientId: bridge-a
tls:
  cert: bridge.pem
  key: bridge.key
  ca: [ca.pem]
  rejectUnauthorized: true
"""


def settings(folder: Path, text: str) -> Path:
    """Write a settings file."""
    file = folder / "bridge.yaml"
    file.write_text(text)
    return file


def test_paths_are_taken_from_beside_the_file(folder: Path) -> None:
    """A good file gives the client's id and a door whose context verifies the broker."""
    client_id, door = read(settings(folder, GOOD))
    assert (client_id, door.host, door.port) == ("bridge-a", "broker.example", 8884)
    context = door.context()
    assert context.check_hostname
    assert context.minimum_version.name == "TLSv1_3"
    assert len(context.get_ca_certs()) == 1


def test_pem_may_stand_in_the_file_itself(folder: Path) -> None:
    """Texts in place of paths, and more than one authority."""
    named = ("bridge.pem", "bridge.key", "ca.pem")
    cert, key, ca = ((folder / one).read_text().replace("\n", "\n    ") for one in named)
    inline = f"host: h\nclientId: c\ntls:\n  cert: |\n    {cert}\n  key: |\n    {key}\n"
    _, door = read(settings(folder, f"{inline}\n  ca:\n  - ca.pem\n  - |\n    {ca}\n"))
    assert len(door.ca) == 2
    door.context()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rejectUnauthorized: true", "rejectUnauthorized: false", "Put its CA into tls.ca"),
        ("rejectUnauthorized", "rejectUnauthorised", r"line 8.*did you mean rejectUnauthorized"),
        ("clientId", "clientID", r"line 3: unknown key clientID: did you mean clientId"),
        ("host: broker.example\n", "", "host is missing"),
        ("clientId: bridge-a", "clientId:", r"line 3: clientId is a str"),
        ("port: 8884", "port: x", r"line 2: port is a int"),
        ("port: 8884", "port: 0", r"port is 1 to 65535, not 0"),
        ("port: 8884", "port: 1\nport: 2", r"line 3: port is there twice"),
        ("ca: [ca.pem]", "ca: ca.pem", r"line 7: tls.ca is a list"),
        ("ca: [ca.pem]", "ca: [1]", "a list of paths or PEM texts"),
        ("ca: [ca.pem]", "ca: []", "tls.ca is missing"),
        ("ca: [ca.pem]", "ca: [none.pem]", r"tls: .*No such file"),
        ("key: bridge.key", "key: ca.pem", "tls: "),
        ("tls:\n", "tls: no\nother:\n", r"line 4: tls is a map of cert, key, ca"),
        (GOOD, "", "a map of host, port"),
        (GOOD, "[1", "not YAML"),
        (GOOD, "\x00", "not YAML"),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(folder: Path, old: str, new: str, said: str) -> None:
    """The message names the file, the line where there is one, and what to write."""
    assert old in GOOD
    with pytest.raises(InvalidSettings, match=said) as refused:
        read(settings(folder, GOOD.replace(old, new)))
    assert "bridge.yaml" in str(refused.value)


def test_a_file_that_is_not_there_is_told(folder: Path) -> None:
    """A wrong path is no traceback."""
    with pytest.raises(InvalidSettings, match="No such file"):
        read(folder / "absent.yaml")
