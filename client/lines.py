"""One line for every record of the language: what a person wants to see of it in passing."""

import dataclasses
import json
from collections.abc import Callable, Collection
from typing import Any

from client import instants
from client.terminal import safe
from protocols import cbor
from schemas import commands, decisions, events, pending, states
from schemas.envelope import Cause, Evidence
from streams.core import anomaly, rotation

TEXT_MAX = 72
"""The longest text of a device that a line shows."""
FINGERPRINT_CHARACTERS = 8
EMPTY: tuple[Any, ...] = (None, "", (), [], b"")
"""Values of fields that a line leaves out."""


def line(record: Any) -> str:
    """Return what matters of a record; empty for bytes that are none."""
    return "" if record is None else safe(_LINES.get(type(record), _fields)(record))


def fingerprint(value: bytes) -> str:
    """Return the head of a SHA-256, as people compare them."""
    return value.hex()[:FINGERPRINT_CHARACTERS]


def values(pairs: dict[str, str], hidden: Collection[str] = ()) -> str:
    """Return the figures of a decision: hashes short, instants readable, limits in words."""
    if pairs.keys() == {"figure", "limit"}:
        return f"{_number(pairs['figure'])} above {_number(pairs['limit'])}"
    shown = {name: text for name, text in pairs.items() if text and name not in hidden}
    return ", ".join(f"{name} {_value(name, text)}" for name, text in shown.items())


def _number(text: str) -> str:
    try:
        return f"{float(text):.7g}"
    except ValueError:
        return _short(text)


def _value(name: str, text: str) -> str:
    if name.endswith("_at") and text.isdigit():
        return instants.shown(int(text))
    if name == "fingerprint":
        return text[:FINGERPRINT_CHARACTERS]
    return _short(text)


def _short(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"


def _payload(data: bytes) -> str:
    for load in (json.loads, cbor.loads):
        try:
            said = load(data)
        except Exception:  # noqa: S112 - a device may have sent anything
            continue
        body = said.get("body", said) if isinstance(said, dict) else said
        return _short(json.dumps(body, default=str, ensure_ascii=False))
    return f"{len(data)} bytes"


def _under(evidence: Evidence) -> str:
    return f"under {fingerprint(evidence.certificate_sha256)}"


def _fields(record: Any) -> str:
    """Return the fields of a record that has no line of its own."""
    named = [(one.name, getattr(record, one.name)) for one in dataclasses.fields(record)]
    told = [f"{name} {_plain(name, value)}" for name, value in named if value not in EMPTY]
    return ", ".join(told) or type(record).__name__


def _plain(name: str, value: Any) -> str:
    """Return a field as people read it: hashes short, instants as such, a cause by its place."""
    if isinstance(value, bytes):
        return fingerprint(value)
    if isinstance(value, Cause):
        where = value.position
        return f"{where.topic} {where.partition}/{where.offset}"
    if isinstance(value, tuple | list):
        return _short(" ".join(str(one) for one in value))
    if name.endswith("_at") and isinstance(value, int):
        return instants.shown(value)
    return _short(str(value))


def _registered(one: events.DeviceRegistered) -> str:
    ends = instants.shown(one.certificate.not_after_at)
    held = fingerprint(one.certificate.fingerprint)
    return f"{one.device_type}, certificate {held} until {ends}, by {one.actor}"


def _tagged(one: events.DeviceTagged) -> str:
    signed = [f"+{tag}" for tag in one.added] + [f"-{tag}" for tag in one.removed]
    return f"{' '.join(signed)} by {one.actor or one.device_id}"


def _opened(one: events.SessionOpened) -> str:
    return f"{_under(one.evidence)} over {one.evidence.protocol}"


def _closed(one: events.SessionClosed) -> str:
    return f"{_under(one.evidence)}, reason code {one.reason_code}"


def _refused(one: events.SessionRefused) -> str:
    return f"{one.reason} {_under(one.evidence)}: {_short(one.detail)}"


def _reported(one: events.DeviceReported) -> str:
    return f"{one.event_type} {_payload(one.payload)}"


def _answered(one: events.CommandAnswered) -> str:
    said = f"{one.outcome}, {one.progress}" if one.progress else one.outcome
    return f"{said} for {one.command_id} {_short(one.detail)}".rstrip()


def _requested(one: events.SigningRequested) -> str:
    verdicts = {
        "weak key": one.key_accepted,
        "CSR signature invalid": one.csr_signature_valid,
        "request signature invalid": one.request_signature_valid,
    }
    wrong = [name for name, holds in verdicts.items() if not holds]
    judged = ", ".join(wrong) or "signatures valid"
    return f"{one.key} key {fingerprint(one.spki_sha256)} for {one.subject or 'nobody'}, {judged}"


def _issued(one: events.CertificateIssued) -> str:
    ends = instants.shown(one.certificate.not_after_at)
    return f"{fingerprint(one.certificate.fingerprint)} until {ends} for {one.request_id}"


def _revoked(one: events.CertificateRevoked) -> str:
    return f"{fingerprint(one.fingerprint)} is in CRL number {one.crl_number}"


def _decided(one: decisions.Decision) -> str:
    told = f"{one.name} {one.reason}" + (f" [{one.severity}]" if one.severity != "info" else "")
    figures = values(one.values)
    return f"{told} {figures} ← {one.cause.partition}/{one.cause.offset}"


def _dead(one: decisions.DeadLetter) -> str:
    return f"{one.reason} from {one.origin}: {_short(one.detail)} ({len(one.payload)} bytes)"


def _row(one: states.DeviceRow) -> str:
    presence = "connected" if one.connected else "away"
    held = len(one.certificates)
    alerts = anomaly.open_alerts(one)
    state = rotation.name(one.rotation)
    return f"{presence}, {state}, {held} certificate(s), {alerts} alert(s), to {one.applied_offset}"


def _pending(one: pending.PendingRow) -> str:
    state = "rejected" if one.rejected_at else "waits for approval"
    return f"{state} with {fingerprint(one.certificate.fingerprint)}, to {one.applied_offset}"


def _partition(one: states.PartitionRow) -> str:
    totals = one.totals
    return (
        f"{totals.registered} registered, {totals.connected} connected, "
        f"{totals.rotating} rotating, {totals.alerts_open} alert(s), core {one.core_version}, "
        f"to {one.applied_offset}"
    )


def _command(one: Any) -> str:
    return f"{one.command_id}, until {instants.shown(one.expires_at)}"


_LINES: dict[type, Callable[[Any], str]] = {
    events.DeviceRegistered: _registered,
    events.DeviceTagged: _tagged,
    events.SessionOpened: _opened,
    events.CertificatePresented: _opened,
    events.RegistrationApproved: lambda one: f"{fingerprint(one.fingerprint)} by {one.actor}",
    events.RegistrationRejected: lambda one: f"{fingerprint(one.fingerprint)} by {one.actor}",
    events.SessionClosed: _closed,
    events.SessionRefused: _refused,
    events.DeviceReported: _reported,
    events.CommandAnswered: _answered,
    events.SigningRequested: _requested,
    events.RotationOrdered: lambda one: f"{one.order_id} by {one.actor}",
    events.CertificateIssued: _issued,
    events.SigningRefused: lambda one: f"{one.reason} for {one.request_id}: {_short(one.detail)}",
    events.CertificateRevoked: _revoked,
    events.ClockTicked: lambda one: f"number {one.number}, {instants.shown(one.at)}",
    events.CoreVersionActivated: lambda one: f"version {one.version}",
    events.PolicyActivated: lambda one: f"number {one.number}, by {one.actor}",
    commands.RotateCertificate: _command,
    commands.InstallCertificate: _command,
    commands.DropCertificate: lambda one: f"{fingerprint(one.fingerprint)}, {one.command_id}",
    commands.RefuseCertificate: lambda one: f"{fingerprint(one.fingerprint)}, {one.command_id}",
    commands.RefuseRenewal: lambda one: f"{one.reason}, {one.command_id}",
    commands.SignCertificate: lambda one: f"{one.request_id} for {one.device_id}",
    commands.RevokeCertificate: lambda one: f"{fingerprint(one.fingerprint)}: {one.reason}",
    commands.SignFirstCertificate: lambda one: f"{one.request_id} for {one.device_id}",
    commands.SignInvited: lambda one: f"{one.request_id} for {one.device_id}",
    commands.InviteDevice: lambda one: "invited" if one.invitation else "withdrawn",
    commands.AnswerInvited: lambda one: f"{one.request_id}: {one.reason}",
    decisions.Decision: _decided,
    decisions.DeadLetter: _dead,
    states.DeviceRow: _row,
    pending.PendingRow: _pending,
    states.PartitionRow: _partition,
}
