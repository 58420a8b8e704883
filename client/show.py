"""What the command line prints: tables and stories on a terminal, JSON where asked."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from schemas.decisions import Decision
from schemas.states import DeviceRow
from streams.core import anomaly, certificate, rotation

FINGERPRINT_CHARACTERS = 16


def instant(at: int) -> str:
    """Return an instant in milliseconds as UTC text, a dash for never."""
    if not at:
        return "-"
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def plain(value: Any) -> Any:
    """Return the value as JSON can hold it: bytes become hex, records become objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {"kind": type(value).__name__}
        fields = dataclasses.fields(value)
        return named | {one.name: plain(getattr(value, one.name)) for one in fields}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def as_json(value: Any) -> None:
    """Print one JSON document on a line of its own."""
    typer.echo(json.dumps(plain(value), sort_keys=True))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; colours and borders only where a terminal shows them."""
    drawn = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(str(one) for one in row))
    Console().print(drawn)


def device_line(row: DeviceRow) -> tuple[object, ...]:
    """Return a device as one line of the list."""
    held = certificate.active(row)
    return (
        row.device_id,
        row.device_type,
        "connected" if row.connected else "away",
        rotation.name(row.rotation),
        held.fingerprint.hex()[:FINGERPRINT_CHARACTERS],
        instant(held.not_after_at),
        anomaly.open_alerts(row) or "",
    )


def device_story(row: DeviceRow, decisions: Sequence[Decision]) -> None:
    """Print one device's story: certificates, the saga with offsets and times, alerts."""
    presence = "connected" if row.connected else "away"
    typer.echo(f"{row.device_id}  {row.device_type}  {presence}")
    typer.echo(f"registered {instant(row.registered_at)}, last seen {instant(row.last_seen_at)}")
    table(
        "Certificates",
        ("fingerprint", "status", "not after", "first used at", "closed at", "CRL"),
        [
            (
                one.fingerprint.hex()[:FINGERPRINT_CHARACTERS],
                one.status,
                instant(one.not_after_at),
                "-" if one.first_used_offset < 0 else one.first_used_offset,
                "-" if one.closed_offset < 0 else one.closed_offset,
                one.crl_number or "-",
            )
            for one in row.certificates
        ],
    )
    table(
        f"Last rotation: {rotation.name(row.rotation)}",
        ("state", "reason", "offset", "at"),
        [(one.state, one.reason, one.offset, instant(one.at)) for one in row.journey],
    )
    table(
        "Decisions",
        ("at", "decision", "reason", "severity", "offset"),
        [
            (instant(one.decided_at), one.name, one.reason, one.severity, one.cause.offset)
            for one in decisions[-20:]
        ],
    )
