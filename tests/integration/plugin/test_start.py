"""How the broker starts with the plugin, and reloads; settings that keep it down."""

import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from bridges.mqtt.broker import config
from tests.integration.plugin import test_refusals, test_stamp, test_topics
from tests.integration.plugin.rig import (
    BUCKETS,
    MOSQUITTO,
    Broker,
    bucket_topic,
    device,
    free_port,
    publish,
    run,
    running,
    service,
    verified,
)


def test_a_reload_changes_nothing(broker: Broker) -> None:
    """After SIGHUP the plugin still judges before the access list does."""
    assert broker.process is not None
    seen = len(broker.errors())
    broker.process.send_signal(signal.SIGHUP)
    broker.await_log("Reloading config", seen)
    test_stamp.test_forged_stamps_are_removed(broker)
    test_topics.test_a_foreign_topic_is_refused_and_told(broker, "devices/victim/status")
    test_refusals.test_a_device_cannot_give_orders(broker)


def test_a_reload_judges_nobody_again(broker: Broker) -> None:
    """A session goes on under its number; one that is away shows no certificate, and is kept.

    mosquitto 2.0 disconnects whom the plugin refuses at SIGHUP, and frees a session that is away
    while it is still in the list of those that expire.
    """
    away: dict[str, Any] = {
        "identifier": "@away",
        "clean_start": False,
        "session_expiry_interval": 60,
    }

    async def scenario() -> None:
        async with service(broker, **away):
            pass
        async with (
            service(broker) as bridge,
            device(broker, broker.authority.device("steady")) as sender,
        ):
            seen = len(broker.errors())
            assert broker.process is not None
            broker.process.send_signal(signal.SIGHUP)
            broker.await_log("Reloading config", seen)
            await publish(sender, "devices/steady/status", b"on")
            told = verified(await bridge.on(bucket_topic("steady", "devices/steady/status")))
            opened = await bridge.event("steady", "opened")
            assert told is not None
            assert (told.sender.session, told.counter) == (opened["session"], 1)
        assert "refused" not in broker.errors()[seen:]
        async with service(broker, **away) as bridge:
            await bridge.on(bucket_topic("steady", "devices/steady/status"))

    run(scenario)


def test_a_torn_line_is_cut_and_a_strange_one_stops_the_start(
    broker: Broker, tmp_path: Path
) -> None:
    """A refusal half written was never answered; anything else unreadable fails closed."""
    settings = replace(
        broker.settings, data_dir=tmp_path, device_port=free_port(), service_port=free_port()
    )
    other = Broker(settings, broker.authority, {})
    whole = f"device:one\ncertificate:{'a' * 64}\n!device:one\n"
    settings.refused_file.write_text(whole + "device:tw")
    with running(other):
        assert settings.refused_file.read_text() == whole
    settings.refused_file.write_text("device:one\nnonsense\n")
    with pytest.raises(AssertionError, match="not a refusal after byte 11"):
        other.start()


@pytest.mark.parametrize("broken", ["buckets", "secret", "issuers"])
def test_a_plugin_that_is_not_set_up_keeps_the_broker_down(
    broker: Broker, tmp_path: Path, broken: str
) -> None:
    """Without a secret, a bucket count or issuers the broker does not start."""
    short = tmp_path / "short"
    short.write_bytes(bytes(31))
    settings = replace(broker.settings, data_dir=tmp_path, device_port=free_port())
    if broken == "secret":
        settings = replace(settings, secret_file=short)
    elif broken == "issuers":
        settings = replace(settings, device_issuers=short)
    path = config.write(replace(settings, service_port=free_port()))
    if broken == "buckets":
        path.write_text(path.read_text().replace(f"buckets {BUCKETS}", "buckets 0"))
    done = subprocess.run(
        [str(MOSQUITTO), "-c", str(path)], capture_output=True, timeout=5, check=False
    )
    assert done.returncode != 0
    assert b"the identity plugin cannot start" in done.stderr


def test_without_the_connect_hook_a_device_can_do_nothing(broker: Broker, tmp_path: Path) -> None:
    """`use_identity_as_username` makes mosquitto skip the hook: then everything is denied."""
    settings = replace(
        broker.settings, data_dir=tmp_path, device_port=free_port(), service_port=free_port()
    )
    other = Broker(settings, broker.authority, {}, extra="use_identity_as_username true")

    async def scenario() -> None:
        async with service(other) as bridge:
            async with device(other, broker.authority.device("unseen")) as sender:
                for topic in ("devices/unseen/status", "devices/unseen/events/x"):
                    answer = await publish(sender, topic, b"")
                    assert answer == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED
                with pytest.raises(aiomqtt.NegativeAckError):
                    await sender.subscribe("devices/unseen/commands/#")
            assert not [each for each in bridge.messages if "unseen" in each.topic]

    with running(other):
        run(scenario)


def test_settings_cannot_smuggle_lines(broker: Broker) -> None:
    """A path with a line break is refused, not written into the configuration."""
    with pytest.raises(ValueError, match="line break"):
        config.render(replace(broker.settings, host="127.0.0.1\nallow_anonymous true"))
