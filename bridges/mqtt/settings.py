"""The MQTT bridge's way to its broker, from the configuration."""

from pathlib import Path

from bridges.mqtt.client import Door, Pem
from configuration.fields import PEM
from configuration.iot import Mqtt
from configuration.source import unusable

SECTION = "iot.mqtt"


def door(own: Mqtt) -> Door:
    """Return the way to the broker. Raises InvalidConfiguration where no TLS can be made of it."""
    tls = own.tls
    if tls.cert is None or tls.private_key is None:
        raise unusable(f"{SECTION}.tls", "cert, key and ca are missing: TLS is mutual")
    made = Door(
        own.host,
        own.service_port,
        tuple(_pem(one) for one in tls.ca),
        _pem(tls.cert),
        _pem(tls.private_key),
        own.bridge_keepalive,
    )
    try:
        made.context()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise unusable(f"{SECTION}.tls", str(error)) from error
    return made


def _pem(said: str) -> Pem:
    """Return PEM text as it is, or the file that is named."""
    return said if PEM in said else Path(said)
