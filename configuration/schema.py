"""The JSON Schema of the model, for editors, and how a value is shown."""

from typing import Any

from configuration.fields import PEM
from configuration.keys import Key
from configuration.model import Configuration

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MASKED = "(not shown)"


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a configuration file."""
    drawn = Configuration.model_json_schema()
    return {"$schema": DIALECT, **drawn, "title": "fleetcert.yaml"}


def shown(key: Key, value: Any) -> Any:
    """Return a value as it may be shown: a private key only by its path, PEM text not at all."""
    if key.variable_only:
        return None if value is None else MASKED
    if isinstance(value, list):
        return [shown(key, one) for one in value]
    if isinstance(value, str) and PEM in value:
        return MASKED if key.secret else "(PEM text)"
    return value
