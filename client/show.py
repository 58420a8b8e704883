"""How the command line tells of devices: a line of the list, and one device's story."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from client import instants
from client.alerts import Alert
from client.lines import fingerprint, values
from client.terminal import safe
from schemas.decisions import Decision, Severity
from schemas.pending import PendingRow
from schemas.reasons import SENTENCES, Reason
from schemas.states import DeviceRow, HeldCertificate, SagaStep
from streams.core import anomaly, certificate, rotation

FINGERPRINT_CHARACTERS = 16
DAY_CHARACTERS = len("2026-11-28")
DECISIONS_MAX = 20
"""Decisions of a story; repeats in a row count as one."""
HIDDEN = frozenset({"serial", "not_after_at", "request", "state", "what"})
"""Figures that a story leaves out: `--json` has them."""

STYLES = {
    "connected": "green",
    "away": "dim",
    certificate.ACTIVE: "green",
    certificate.CANDIDATE: "cyan",
    certificate.UNDER_RETIRED: "yellow",
    certificate.RETIRED: "dim",
    "proven": "green",
    "idle": "green",
    "failed": "yellow",
    "abandoned": "red",
    Severity.INFO.value: "",
    Severity.WARNING.value: "yellow",
    Severity.CRITICAL.value: "bold red",
}

Columns = Sequence[str]


def device_line(row: DeviceRow, now: int) -> tuple[object, ...]:
    """Return a device as one line of the list."""
    held = certificate.active(row)
    return (
        row.device_id,
        row.device_type,
        _presence(row),
        rotation.name(row.rotation),
        fingerprint(held.fingerprint),
        instants.shown(held.not_after_at)[:DAY_CHARACTERS],
        instants.distance(held.not_after_at, now),
        anomaly.open_alerts(row) or "",
    )


def pending_line(row: PendingRow, now: int) -> tuple[object, ...]:
    """Return a device that waits for approval as one line of the list."""
    return (
        row.device_id,
        row.certificate.fingerprint.hex(),
        row.protocol,
        row.peer_address,
        "connected" if row.session else "away",
        instants.shown(row.first_seen_at),
        instants.distance(row.first_seen_at, now),
        "rejected" if row.rejected_at else "lapsed" if row.lapsed_at else "",
    )


def device_story(
    row: DeviceRow, decisions: Sequence[Decision], alerts: Sequence[Alert], now: int
) -> RenderableType:
    """Draw one device's story: certificates, the saga with offsets and times, alerts, decisions."""
    parts = [_head(row, now), _certificates(row, now), *_journey(row)]
    if alerts:
        parts.append(_alerts(alerts, now))
    parts.append(_decisions(decisions))
    return Group(*(one for part in parts for one in (part, "")))


def alert_line(one: Alert, now: int) -> tuple[object, ...]:
    """Return an alert as one line of the list."""
    return (
        instants.shown(one.since_at),
        instants.distance(one.since_at, now),
        one.subject.removeprefix("device:"),
        one.severity,
        one.rule,
        values(one.values),
        sentence(one.reason),
    )


def sentence(reason: str) -> str:
    """Return what a reason means; empty for one that this version does not know."""
    return SENTENCES[Reason(reason)] if reason in set(Reason) else ""


def _presence(row: DeviceRow) -> str:
    return "connected" if row.connected else "away"


def _head(row: DeviceRow, now: int) -> RenderableType:
    title = Text()
    title.append(row.device_id, "bold")
    title.append(f"   {safe(row.device_type)}, {', '.join(map(safe, row.protocols))}   ")
    title.append(f"● {_presence(row)}", STYLES[_presence(row)])
    heard = "never"
    if row.last_seen_at:
        heard = (
            f"{instants.shown(row.last_seen_at)} UTC, {instants.distance(row.last_seen_at, now)}"
        )
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("registered", f"{instants.shown(row.registered_at)} UTC"),
        ("last heard", heard),
        ("numbers", f"boot {row.boot}, sequence {row.sequence}"),
        ("history", f"to offset {row.applied_offset}; rotations completed: {row.rotations}"),
    ):
        facts.add_row(Text(name, "dim"), value)
    return Group(title, facts)


def _section(title: str, columns: Columns, rows: Iterable[Sequence[Text | str]]) -> Table:
    """Draw a part of the story; only the last column may take more than one line."""
    drawn = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        header_style="dim",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    *first, last = columns
    for name in first:
        justify: JustifyMethod = "right" if name in ("offset", "after") else "left"
        drawn.add_column(name, justify=justify, no_wrap=True)
    drawn.add_column(last, overflow="fold")
    for row in rows:
        drawn.add_row(*(one if isinstance(one, Text) else safe(one) for one in row))
    return drawn


def _certificates(row: DeviceRow, now: int) -> RenderableType:
    return _section(
        "Certificates",
        ("fingerprint", "status", "valid until (UTC)", "", "first used", "closed", "CRL"),
        [_certificate(one, now) for one in reversed(row.certificates)],
    )


def _certificate(one: HeldCertificate, now: int) -> tuple[Text | str, ...]:
    style = STYLES.get(one.status, "")
    first_used = "at registration" if one.status != certificate.CANDIDATE else "not yet"
    status = f"{one.status}, provisioning" if one.provisioning else one.status
    return (
        Text(one.fingerprint.hex()[:FINGERPRINT_CHARACTERS], style),
        Text(status, style),
        instants.shown(one.not_after_at),
        instants.distance(one.not_after_at, now),
        first_used if one.first_used_offset < 0 else f"offset {one.first_used_offset}",
        "" if one.closed_offset < 0 else f"offset {one.closed_offset}",
        "listed" if one.crl_number else "",
    )


def _journey(row: DeviceRow) -> Iterator[RenderableType]:
    if not row.journey:
        yield Text("Rotation: none yet", "bold")
        return
    first = row.journey[0]
    yield _section(
        f"Last rotation: {rotation.name(row.rotation)}, begun {instants.shown(first.at)} (UTC)",
        ("state", "offset", "time", "after", "why"),
        [_move(first, one) for one in row.journey],
    )


def _move(first: SagaStep, one: SagaStep) -> tuple[Text | str, ...]:
    why = "" if one.reason == Reason.NONE.value else sentence(one.reason) or one.reason
    return (
        Text(f"● {one.state}", STYLES.get(one.state, "cyan")),
        str(one.offset),
        instants.clock(one.at, first.at),
        f"+{instants.span(one.at - first.at)}",
        why,
    )


def _alerts(alerts: Sequence[Alert], now: int) -> RenderableType:
    rows = [
        (
            Text(f"▲ {one.rule}", STYLES[one.severity]),
            instants.distance(one.since_at, now),
            values(one.values, HIDDEN),
            sentence(one.reason),
        )
        for one in alerts
    ]
    return _section("Open alerts", ("alert", "since", "figures", "what it means"), rows)


def _decisions(decisions: Sequence[Decision]) -> RenderableType:
    grouped = [
        list(same) for _, same in itertools.groupby(decisions, lambda one: (one.name, one.reason))
    ]
    shown = grouped[-DECISIONS_MAX:]
    first_at = shown[0][-1].decided_at if shown else 0
    told = f"the last {sum(map(len, shown))} of " if len(grouped) > len(shown) else ""
    rows = [
        (
            instants.clock(same[-1].decided_at, first_at),
            str(same[-1].cause.offset),
            Text(same[-1].name, STYLES.get(same[-1].severity, "")),
            f"{len(same)} times" if len(same) > 1 else "",
            "" if same[-1].reason == Reason.NONE.value else same[-1].reason,
            values(same[-1].values, HIDDEN),
        )
        for same in shown
    ]
    columns = ("time", "offset", "decision", "", "reason", "figures")
    since = f", from {instants.shown(first_at)} (UTC)" if shown else ""
    return _section(f"Decisions: {told}{len(decisions)}{since}", columns, rows)
