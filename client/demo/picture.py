"""The live picture of the demo: pure, a snapshot in, a drawing of fixed size out.

Every panel has its height, so that nothing jumps; the whole fits a terminal of 100 by 30.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from client import lines
from client.demo.watch import Snapshot
from schemas.decisions import Decision, DecisionName, Severity
from streams.core import rotation

COLUMNS = 98
LEFT = 60
UPPER, LOWER = 13, 15
BAR = 33
PROCESSES_PER_LINE = 2
SPARKS = " ▁▂▃▄▅▆▇█"
GOOD, WORKING, NEAR_END, WARNING, BAD = (
    "#5fd787",
    "#5fd7ff",
    "#5f87ff",
    "#ffd75f",
    "#ff5f5f",
)
STATE_STYLES = {
    "idle": "#6c9a6c",
    "requested": WORKING,
    "csr-received": WORKING,
    "issued": NEAR_END,
    "delivered": NEAR_END,
    "proven": GOOD,
    "failed": WARNING,
    "abandoned": BAD,
}
SEVERITY_STYLES = {Severity.INFO: "", Severity.WARNING: WARNING, Severity.CRITICAL: BAD}
NAMES = {
    DecisionName.CERTIFICATE_NEARED_EXPIRY: "nears expiry",
    DecisionName.CERTIFICATE_PROVEN: "new one proven",
    DecisionName.CERTIFICATE_RETIRED: "old one retired",
    DecisionName.ROTATION_FAILED: "rotation failed",
    DecisionName.ROTATION_ABANDONED: "rotation abandoned",
    DecisionName.EVENT_REFUSED: "refused",
    DecisionName.ALERT_RAISED: "alert",
    DecisionName.ALERT_CLEARED: "alert cleared",
}
TOLD_STYLES = {
    DecisionName.CERTIFICATE_PROVEN.value: GOOD,
    DecisionName.ALERT_CLEARED.value: GOOD,
    DecisionName.CERTIFICATE_RETIRED.value: NEAR_END,
}


def draw(seen: Snapshot) -> RenderableType:
    """Draw a snapshot."""
    right = COLUMNS - LEFT
    upper = _beside(
        _panel("The rotation saga", _saga(seen), LEFT, UPPER),
        _panel("The history", _history(seen), right, UPPER),
    )
    lower = _beside(
        _panel("Decisions", _decisions(seen.told), LEFT, LOWER),
        _panel(f"Open alerts: {len(seen.alerts)}", _alerts(seen), right, LOWER),
    )
    return Group(_head(seen), upper, lower)


def sparkline(figures: Sequence[int], width: int) -> str:
    """Return the last `width` figures as a line of bars, the highest one full."""
    shown = figures[-width:]
    most = max(shown, default=0) or 1
    steps = len(SPARKS) - 1
    return "".join(SPARKS[-(-one * steps // most)] for one in shown).rjust(width)


def _beside(*panels: RenderableType) -> Table:
    grid = Table.grid()
    grid.add_row(*panels)
    return grid


def _panel(title: str, content: RenderableType, width: int, height: int) -> Panel:
    return Panel(
        content,
        title=title,
        title_align="left",
        box=box.ROUNDED,
        border_style="bright_black",
        width=width,
        height=height,
    )


def _head(seen: Snapshot) -> Text:
    head = Text()
    head.append(" fleetcert ", "bold reverse")
    head.append(
        f"  {len(seen.rows)} devices over MQTT and CoAP, TLS 1.3, each with a key of its own"
    )
    minutes, seconds = divmod(int(seen.seconds), 60)
    head.append(f"{minutes}:{seconds:02}".rjust(COLUMNS - len(head) - 1), "dim")
    return head


def _saga(seen: Snapshot) -> RenderableType:
    counts, most = seen.states, max(1, len(seen.rows))
    grid = Table.grid(padding=(0, 1))
    for name in rotation.NAMES.values():
        count = counts[name]
        grid.add_row(
            Text(f"{name:13}", "dim" if not count else ""),
            _bar(count, most, STATE_STYLES[name]),
            Text(f"{count or ''}".rjust(3)),
        )
    grid.add_row("", "", "")
    share = Text(f"{seen.done} of {seen.expected}", "bold")
    grid.add_row(Text("rotated", "bold"), _bar(seen.done, seen.expected, GOOD), share)
    return grid


def _bar(count: int, most: int, style: str) -> Text:
    full = -(-count * BAR // max(1, most))
    bar = Text("█" * full, style)
    bar.append("·" * (BAR - full), "bright_black")
    return bar


def _history(seen: Snapshot) -> RenderableType:
    connected = sum(row.connected for row in seen.rows.values())
    listed = sum(bool(one.crl_number) for row in seen.rows.values() for one in row.certificates)
    rate = seen.rates[-1] if seen.rates else 0
    grid = Table.grid(padding=(0, 1))
    for name, value in (
        ("connected", f"{connected} of {len(seen.rows)}"),
        ("recorded for devices", f"{seen.recorded:,}"),
        ("records in all", f"{sum(seen.kinds.values()):,}"),
        ("certificates issued", f"{seen.kinds['CertificateIssued']}"),
        ("on the revocation list", f"{listed}"),
    ):
        grid.add_row(Text(name, "dim"), Text(value.rjust(9)))
    return Group(
        grid,
        "",
        Text(sparkline(seen.rates, COLUMNS - LEFT - 4), WORKING),
        Text(f"{rate} events/s", "dim"),
        _processes(seen.processes),
    )


def _processes(states: dict[str, str]) -> Text:
    drawn = Text()
    for number, (name, state) in enumerate(states.items()):
        drawn.append("\n" if number and number % PROCESSES_PER_LINE == 0 else "")
        drawn.append("● ", GOOD if state == "running" else BAD)
        drawn.append(f"{name.partition('-')[0]:13}", "dim")
    return drawn


def _decisions(told: Sequence[Decision]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for one in told[-(LOWER - 2) :]:
        grid.add_row(*_decision(one))
    return grid


def _decision(one: Decision) -> tuple[Text, ...]:
    style = TOLD_STYLES.get(one.name, SEVERITY_STYLES[Severity(one.severity)])
    obvious = one.name in (DecisionName.CERTIFICATE_NEARED_EXPIRY, DecisionName.CERTIFICATE_PROVEN)
    why = "" if obvious or one.name == DecisionName.CERTIFICATE_RETIRED else one.reason
    if "fingerprint" in one.values and not why:
        why = lines.values({"fingerprint": one.values["fingerprint"]}).removeprefix("fingerprint ")
    return (
        Text(f"{one.cause.partition}/{one.cause.offset:<4}", "dim"),
        Text(one.subject.removeprefix("device:"), "", no_wrap=True),
        Text(NAMES[DecisionName(one.name)], style, no_wrap=True),
        Text(why, "dim", no_wrap=True),
    )


def _alerts(seen: Snapshot) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for one in seen.alerts[-(LOWER - 2) :]:
        style = SEVERITY_STYLES[Severity(one.severity)]
        grid.add_row(
            Text("▲", style),
            Text(one.subject.removeprefix("device:"), no_wrap=True),
            Text(one.rule, style, no_wrap=True),
        )
    return grid
