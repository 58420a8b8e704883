"""A campaign as a user writes it: a JSON document with camelCase names, spans in milliseconds.

    {"kind": "update", "artefact": {"kind": "firmware", "version": "2.1", "uri": "https://…",
     "size": 1048576, "sha256": "9f86…"}, "groups": [{"count": 5}, {"percent": 10, "gate": true}],
     "timeWindow": {"start": "01:00", "end": "03:00", "timeZone": "Europe/Berlin"}}

What is left out is the fleet's own or the default (docs/campaigns.md). Unknown names are refused
with the nearest known one; what a name may hold is judged by the machine's own rules.
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any, get_type_hints

from client import instants
from client.errors import FleetError
from schemas.artefact import Artefact
from schemas.fleet_states import (
    CampaignGroup,
    CampaignRate,
    CampaignSpec,
    TimeWindow,
    ZoneTable,
)
from streams.core import campaign, fleet_config

RENAMED = {
    "backoff_ms": "backoff",
    "backoff_max_ms": "backoffMax",
    "order_within_ms": "orderWithin",
    "stagger_ms": "stagger",
    "end_after_ms": "endAfter",
    "window": "timeWindow",
}
"""Our names whose unit the user's names leave to the documentation."""
ARTEFACT_DEFAULTS = {"kind": "firmware", "name": "", "size": 0, "signature": b"", "key_id": ""}


def parse(text: str, now: int) -> CampaignSpec:
    """Return the spec that a JSON text is. Raises FleetError with the path of what is wrong."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise FleetError(f"the campaign is no JSON: {error}") from error
    return spec_of(document, now)


def spec_of(document: Any, now: int) -> CampaignSpec:
    """Return the spec of a document. Raises FleetError with the path of what is wrong."""
    values = _values(CampaignSpec, document, "")
    if "start_at" in values:
        if not isinstance(values["start_at"], str):
            raise FleetError("startAt: expected an instant like 2026-12-01T02:00 (UTC)")
        values["start_at"] = instants.parse(values["start_at"], now)
    if values.get("artefact") is not None:
        values["artefact"] = _artefact(values["artefact"])
    if values.get("window") is not None:
        values["window"] = _window(values["window"])
    if "rate" in values:
        values["rate"] = _typed(CampaignRate, values["rate"], "rate.")
    if "groups" in values:
        if not isinstance(values["groups"], list):
            raise FleetError("groups: expected a list")
        values["groups"] = tuple(
            _typed(CampaignGroup, one, f"groups[{number}].")
            for number, one in enumerate(values["groups"])
        )
    spec: CampaignSpec = _made(CampaignSpec, values, "")
    return spec


def checked(campaign_id: str, spec: CampaignSpec, zone: ZoneTable | None) -> CampaignSpec:
    """Return the spec if the machine will accept it. Raises FleetError with its words."""
    wrong = campaign.objection(campaign_id, spec, zone)
    if wrong:
        raise FleetError(f"the campaign is not valid: {wrong}")
    return spec


def users_name(field: str) -> str:
    """Return the user's name of a field of ours."""
    if field in RENAMED:
        return RENAMED[field]
    head, *tail = field.split("_")
    return head + "".join(one.capitalize() for one in tail)


def _typed(kind: type, document: Any, path: str) -> Any:
    return _made(kind, _values(kind, document, path), path)


def _values(kind: type, document: Any, path: str) -> dict[str, Any]:
    """Return a document's values by our names."""
    if not isinstance(document, Mapping):
        raise FleetError(f"{path.rstrip('.') or 'the campaign'}: expected an object")
    names = {users_name(one.name): one.name for one in dataclasses.fields(kind)}
    found: dict[str, Any] = {}
    for name, value in document.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"; did you mean {path}{close[0]}?" if close else ""
            raise FleetError(f"{path}{name}: no such name{hint}")
        found[names[name]] = value
    return found


def _made(kind: type, values: dict[str, Any], path: str) -> Any:
    """Return the record, if every value is of its field's type."""
    hints = get_type_hints(kind)
    for name, value in values.items():
        wanted = hints[name]
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            values[name] = float(value)
        elif wanted in (int, str, float, bool) and type(value) is not wanted:
            what = {int: "a whole number", str: "a text", float: "a number", bool: "true or false"}
            raise FleetError(
                f"{path}{users_name(name)} is {json.dumps(value)}: expected {what[wanted]}"
            )
    try:
        return kind(**values)
    except TypeError as error:
        where = path.rstrip(".") or "the campaign"
        raise FleetError(f"{where}: {_missing(kind, values)} missing") from error


def _missing(kind: type, values: dict[str, Any]) -> str:
    needed = [
        users_name(one.name)
        for one in dataclasses.fields(kind)
        if one.default is dataclasses.MISSING
        and one.default_factory is dataclasses.MISSING
        and one.name not in values
    ]
    return ", ".join(needed) + (" is" if len(needed) == 1 else " are")


def _artefact(document: Any) -> Artefact:
    values: dict[str, Any] = ARTEFACT_DEFAULTS | _values(Artefact, document, "artefact.")
    for name in ("sha256", "signature"):
        if isinstance(values.get(name), str):
            try:
                values[name] = bytes.fromhex(values[name])
            except ValueError as error:
                raise FleetError(f"artefact.{name}: expected hexadecimal digits") from error
        elif not isinstance(values.get(name, b""), bytes):
            raise FleetError(f"artefact.{name}: expected hexadecimal digits")
    made: Artefact = _made(Artefact, values, "artefact.")
    return made


def _window(document: Any) -> TimeWindow:
    prefix = "updatePolicy.timeWindow."
    given = dict(fleet_config.plain(fleet_config.resolved()))
    try:
        patch = fleet_config.flatten(json.dumps({"updatePolicy": {"timeWindow": document}}))
        given |= patch
        parts = [given[f"{prefix}{name}"] for name in ("start", "end", "timeZone", "days")]
        return fleet_config.window_of(*parts)
    except fleet_config.Objection as error:
        raise FleetError(str(error).removeprefix("updatePolicy.")) from error
