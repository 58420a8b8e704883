"""Payloads: both content types, both forms of `recorded`, and garbage."""

import base64
import json

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device import payloads
from device.payloads import CBOR, JSON, Malformed

NONCE = b"\x00\xff nonce"


def test_a_command_is_the_same_in_cbor_and_json() -> None:
    """Bytes are base64 in JSON; the content type may be absent."""
    fields = {"type": "RotateCertificate", "command_id": "c", "issued_at": 1, "expires_at": 2}
    as_cbor = cbor2.dumps({**fields, "nonce": NONCE})
    as_json = json.dumps({**fields, "nonce": base64.b64encode(NONCE).decode()}).encode()
    for payload, content_type in (
        (as_cbor, CBOR),
        (as_json, JSON),
        (as_cbor, None),
        (as_json, None),
    ):
        command = payloads.command(payload, content_type, "c")
        assert (command.type, command.raw("nonce"), command.expires_at) == (
            "RotateCertificate",
            NONCE,
            2,
        )


def test_recorded_comes_one_by_one_or_as_a_list() -> None:
    """Both forms, and a refusal with its reason."""
    one = payloads.recorded(b'{"boot":1,"sequence":2}', JSON)
    many = payloads.recorded(b'{"recorded":[[1,2],[1,3]]}', JSON)
    refused = payloads.recorded(b'{"boot":1,"sequence":2,"refused":"oversize"}', JSON)
    assert one.numbers == ((1, 2),)
    assert many.numbers == ((1, 2), (1, 3))
    assert (refused.numbers, refused.refused) == (((1, 2),), "oversize")


def test_a_newcomer_is_told_by_which_certificate_it_is_known() -> None:
    """It lets nothing go, and refuses nothing."""
    found = payloads.recorded(b'{"presented": "ab12"}', payloads.JSON)
    assert (found.numbers, found.refused, found.presented) == ((), None, "ab12")


def test_a_command_that_names_another_id_than_its_topic_is_malformed() -> None:
    """The id in the topic counts."""
    with pytest.raises(Malformed):
        payloads.command(b'{"type":"X","command_id":"other"}', JSON, "c")


@given(st.binary(max_size=64), st.sampled_from([CBOR, JSON, None]))
def test_garbage_is_malformed_and_nothing_else(data: bytes, content_type: str | None) -> None:
    """Any bytes give a value or Malformed."""
    for read in (
        lambda: payloads.recorded(data, content_type),
        lambda: payloads.command(data, content_type, "c"),
    ):
        try:
            read()
        except Malformed:
            continue
