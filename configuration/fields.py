"""What the model is made of: keys with unit, limits, default and effect; sections of keys.

Rules of this file: the user's keys are camel case, units stand in the key's text; every key says
when a change of it takes effect: live, or at the next start of the processes that are named.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

PEM = "-----BEGIN "
PORT_MAX = 65_535
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
PREFIX = r"^[A-Za-z0-9._-]{1,64}$"
HOST = r"^[A-Za-z0-9:._-]{1,253}$"
HOSTS = r"^[A-Za-z0-9._\[\]:-]+:[0-9]{1,5}(,[A-Za-z0-9._\[\]:-]+:[0-9]{1,5})*$"

Pem = Annotated[str, Field(min_length=1)]
"""A path, or PEM text itself."""

LIVE = ""
BROKER, MQTT, COAP, EST = "mosquitto", "the MQTT bridges", "the CoAP bridge", "the EST door"
WORKERS, ISSUER, KAFKA, ALL = "the workers", "the issuer", "Kafka", "all processes"
DOORS = f"{BROKER}, {MQTT}"


def key(
    default: Any,
    meaning: str,
    unit: str = "",
    *,
    restart: str = LIVE,
    file: bool = False,
    secret: bool = False,
    variable_only: bool = False,
    said: str = "",
    **limits: Any,
) -> Any:
    """Return a field. `restart` names what must start anew; `said` is how its values are told.

    One that is `variable_only` stands in no file: neither in a user's nor in one of ours.
    """
    known = {"unit": unit, "restart": restart, "file": file, "secret": secret, "said": said}
    known["variable-only"] = variable_only
    extra: dict[str, Any] = {f"x-{name}": value for name, value in known.items() if value}
    return Field(default, description=meaning, json_schema_extra=extra, **limits)


def port_key(default: int, meaning: str, restart: str, least: int = 1) -> Any:
    """Return the field of a port; one that may be 0 says in its meaning what that does."""
    return key(default, meaning, restart=restart, ge=least, le=PORT_MAX)


class Section(BaseModel):
    """Keys that belong together; an unknown one is refused, a value is never converted."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )
