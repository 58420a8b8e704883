"""A registration as users write it: what passes, and which field is named where one does not."""

from pathlib import Path
from typing import Any

import pytest

from client.registration import Refused, parse
from pki.authority import Authority
from tests.helpers.registrations import document, pem


def refused(document: Any) -> tuple[str, str]:
    """Return the field and the reason of a refusal."""
    with pytest.raises(Refused) as raised:
        parse(document)
    return raised.value.field, raised.value.reason


def test_a_whole_document_becomes_a_registration(authorities: Authority, tmp_path: Path) -> None:
    """PEM text, bytes or a path are a certificate; what is left out has its default."""
    given = document(authorities, "pump-1", tags=["site=berlin"], attributes={"room": "7"})
    one = parse(given)
    assert (one.device_id, one.device_type, one.protocols) == ("pump-1", "device", ("mqtt",))
    assert (one.tags, one.attributes) == (("site=berlin",), {"room": "7"})
    pem = given["certificates"]["device"]
    path = tmp_path / "pump-1.pem"
    path.write_text(pem)
    for held in (pem.encode(), str(path)):
        assert parse(given | {"certificates": {"device": held}}) == one


def test_the_ca_must_have_signed_the_certificate(authorities: Authority) -> None:
    """One that did not is refused; the one that did passes."""
    right, wrong = pem(authorities.device.certificate), pem(authorities.service.certificate)
    assert parse(document(authorities, "pump-1", ca=right)).device_id == "pump-1"
    field, _ = refused(document(authorities, "pump-1", ca=wrong))
    assert field == "certificates.ca"


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"id": "../x"}, "id", "'../x' is no device id"),
        ({"id": ""}, "id", "missing"),
        ({"id": 7}, "id", "7: expected a text"),
        ({"id": "pump-2"}, "certificates.device", "it names pump-1, not pump-2"),
        ({"typ": "pump"}, "typ", "no such field; did you mean type?"),
        ({"protocols": ["mqqt"]}, "protocols", "'mqqt': did you mean mqtt?"),
        ({"protocols": "mqtt"}, "protocols", "'mqtt': expected a list of texts"),
        ({"tags": ["a b"]}, "tags", "'a b' is no tag"),
        ({"type": "a b"}, "type", "'a b': letters"),
        ({"attributes": {"a": 1}}, "attributes.a", "expected a text"),
        ({"attributes": {"a b": "x"}}, "attributes.a b", "a name has letters"),
        ({"certificates": {}}, "certificates.device", "missing"),
        ({"certificates": None}, "certificates.device", "missing"),
        (
            {"certificates": {"device": "no-such.pem"}},
            "certificates.device",
            "no-such.pem: No such",
        ),
        ({"certificates": {"device": b"x"}}, "certificates.device", "unreadable"),
        (
            {"certificates": {"devise": "x"}},
            "certificates.devise",
            "no such field; did you mean device",
        ),
    ],
)
def test_what_is_wrong_is_named(
    authorities: Authority, changes: dict[str, Any], field: str, reason: str
) -> None:
    """The field by its path, and the nearest name where one is not known."""
    named, why = refused(document(authorities, "pump-1") | changes)
    assert named == field
    assert why.startswith(reason), why


def test_what_is_no_object_is_refused() -> None:
    """A list or a number is no device."""
    assert refused([1]) == ("the device", "expected an object")
