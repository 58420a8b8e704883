"""Who is let in, and what is told of a session."""

import socket
import ssl
from pathlib import Path

import aiomqtt
import pytest
from cryptography import x509

from bridges.mqtt.broker import stamp
from tests.integration.plugin.rig import (
    Authority,
    Broker,
    bucket_topic,
    client,
    device,
    publish,
    run,
    service,
    tls,
    verified,
)


def test_a_session_is_told_from_opening_to_closing(broker: Broker) -> None:
    """`opened` has counter 0 and comes before the first message; `closed` has the last number."""

    async def scenario() -> None:
        async with service(broker) as bridge:
            async with device(broker, broker.authority.device("told")) as sender:
                await publish(sender, "devices/told/status", b"up")
            await bridge.event("told", "closed")
            mine = [m for m in bridge.messages if m.topic.startswith(bucket_topic("told", ""))]
            mine = [m for m in mine if m.topic.split("/")[3] == "told"]
            seen = [verified(m) for m in mine]
            assert [each.counter for each in seen if each] == [0, 1, 2]
            assert len({each.sender.session for each in seen if each}) == 1

    run(scenario)


def test_a_client_id_must_be_the_common_name(broker: Broker) -> None:
    """A device cannot connect under another id; the refusal is told under its own name."""

    async def scenario() -> None:
        credential = broker.authority.device("honest")
        async with service(broker) as bridge:
            for name in ("victim", "@test", "honest2"):
                with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                    async with client(broker, broker.settings.device_port, credential, name):
                        pass
            refused = await bridge.event("honest", "refused")
            assert (refused["reason"], refused["reason_code"]) == ("client-id-mismatch", 135)

    run(scenario)


def test_a_certificate_must_name_one_device(broker: Broker) -> None:
    """A missing, other or second SAN URI, or a common name out of form, is refused."""

    async def scenario() -> None:
        authority = broker.authority
        urn = x509.UniformResourceIdentifier
        two = [urn("urn:fleetcert:device:two"), urn("urn:fleetcert:device:three")]
        cases = [
            (authority.device("other", uri="urn:fleetcert:device:else"), "other", "uri-mismatch"),
            (authority.issue("bare", authority.devices), "bare", "uri-mismatch"),
            (authority.issue("two", authority.devices, sans=two), "two", "uri-mismatch"),
            (authority.device("a/b"), stamp.UNKNOWN, "invalid-name"),
        ]
        async with service(broker) as bridge:
            for credential, name, reason in cases:
                with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                    async with device(broker, credential):
                        pass
                assert (await bridge.event(name, "refused"))["reason"] == reason

    run(scenario)


def test_each_listener_takes_its_own_authority_only(broker: Broker) -> None:
    """A service certificate opens no device session, nor the other way: TLS refuses both."""

    async def scenario() -> None:
        authority, settings = broker.authority, broker.settings
        console = authority.issue("console", authority.services)
        for port, credential, name in (
            (settings.device_port, authority.device("false", issuer=authority.services), "false"),
            (settings.device_port, console, "@spy"),
            (settings.service_port, authority.device("spy"), "@spy"),
        ):
            with pytest.raises((OSError, aiomqtt.ConnectError)):
                async with client(broker, port, credential, name):
                    pass

    run(scenario)


def test_an_authority_beside_the_device_ca_makes_no_device(broker: Broker) -> None:
    """Under the root, which TLS must trust, only the device CA itself issues devices."""

    async def scenario() -> None:
        other = broker.authority.issue("other CA", broker.authority.root, ca=True)
        false = broker.authority.device("false", issuer=other)
        async with service(broker) as bridge:
            with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                async with device(broker, false):
                    pass
            refused = await bridge.event(stamp.UNKNOWN, "refused")
            assert refused["reason"] == "unknown-issuer"

    run(scenario)


def test_a_stranger_does_not_get_past_tls(broker: Broker, tmp_path: Path) -> None:
    """A certificate of another root, or none, ends in the handshake on both listeners."""

    async def scenario() -> None:
        stranger = Authority(tmp_path).device("stranger")
        for port in (broker.settings.device_port, broker.settings.service_port):
            with pytest.raises((OSError, aiomqtt.ConnectError)):
                async with client(broker, port, stranger, "stranger"):
                    pass

    run(scenario)


def test_services_have_ids_that_no_device_can_have(broker: Broker) -> None:
    """A service without `@` is refused, so no device can take a service's session away."""

    async def scenario() -> None:
        credential = broker.authority.issue("console", broker.authority.services)
        with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
            async with client(broker, broker.settings.service_port, credential, "plain"):
                pass
        async with client(broker, broker.settings.service_port, credential, "") as unnamed:
            assert unnamed.identifier.startswith("@auto-")

    run(scenario)


def test_tls_before_1_3_is_refused(broker: Broker) -> None:
    """A handshake of at most TLS 1.2 fails on both listeners."""
    context = tls(broker, broker.authority.device("late"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for port in (broker.settings.device_port, broker.settings.service_port):
        with socket.create_connection(("127.0.0.1", port)) as raw, pytest.raises(ssl.SSLError):
            context.wrap_socket(raw, server_hostname="127.0.0.1")
