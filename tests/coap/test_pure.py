"""The pure parts of the CoAP bridge: garbage raises nothing, blocks fit together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.coap import datagrams, discovery, downward, dtls12, hello
from schemas.commands import DropCertificate


@given(st.binary(max_size=300))
def test_any_bytes_are_a_hello_or_none(data: bytes) -> None:
    """The parser of hellos raises on nothing."""
    found = hello.read(data)
    assert found is None or isinstance(found.offers_1_3, bool)


@given(st.binary(max_size=300))
def test_bytes_that_begin_like_a_hello_are_read(data: bytes) -> None:
    """A right header in front of garbage is a hello, whole or in part."""
    length = len(data).to_bytes(3, "big")
    header = b"\x01" + length + b"\0\0" + b"\0\0\0" + length
    record = b"\x16\xfe\xfd\0\0" + b"\0" * 6 + (len(data) + 12).to_bytes(2, "big")
    found = hello.read(record + header + data)
    assert found is not None
    assert found.sequence == 0
    assert found.random == data[2:34]


@given(st.binary(max_size=2_000))
def test_any_bytes_are_cut_into_datagrams(stream: bytes) -> None:
    """Cutting loses nothing of whole records and makes nothing longer than a record or the MTU."""
    parts = list(dtls12.datagrams(stream))
    assert stream.startswith(b"".join(parts))
    assert isinstance(datagrams.is_flight(stream), bool)


@pytest.mark.parametrize(
    ("query", "count"),
    [((), 3), (("rt=fleetcert.commands",), 1), (("href=/e*",), 1), (("ct=50",), 3), (("obs=",), 1)],
)
def test_filters_of_discovery(query: tuple[str, ...], count: int) -> None:
    """Each attribute filters, a star at the end matches what begins so (RFC 6690 section 4.1)."""
    assert discovery.document(query).count(b"<") == count


def test_who_asks_without_security_is_given_whole_addresses() -> None:
    """The secured resources are named with the scheme that reaches them."""
    assert b"<coaps://h/commands>" in discovery.document((), ["coaps://h"])


def test_expired_commands_leave_the_list() -> None:
    """The list is fresh until its first command expires, and holds no expired one."""
    commands = {
        name: DropCertificate(name, "pump-1", 1, 1, at, b"f")
        for name, at in (("old", 1_000), ("new", 90_000))
    }
    _, seconds = downward.document(commands, 30_000, as_json=True)
    assert (list(commands), seconds) == (["new"], 60)
