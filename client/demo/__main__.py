"""`python -m client.demo`: start a stack of its own, run the fleet, prove, report, stop.

Exit code 0 only if every proof holds. Works without a terminal; writes `var/demo/report.json`.
"""

import argparse
import asyncio
import json
import logging
import shutil
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from client.demo import fleet as demo
from client.demo import proofs
from client.fleet import Fleet
from client.local import supervisor
from client.local.errors import LocalError
from client.local.layout import Layout
from device.simulator import Simulator
from pki import authority
from schemas.reasons import SENTENCES, Reason
from schemas.states import DeviceRow
from streams.core import anomaly, rotation

ROTATE_SECONDS = 90.0
LOOK_SECONDS = 1.0
TELL_SECONDS = 5.0


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m client.demo", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("var/demo"))
    parser.add_argument("--tools", type=Path, default=Path("var/tools"))
    options = parser.parse_args(argv)
    logging.disable(logging.INFO)
    shutil.rmtree(options.directory, ignore_errors=True)
    layout = _layout(options.directory / "stack", options.tools)
    try:
        return asyncio.run(_run(layout, options.directory))
    except LocalError as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1


def _layout(data_dir: Path, tools_dir: Path) -> Layout:
    """Choose ports that are free, so that a demo never meets a stack of yours."""
    probes = [socket.socket() for _ in range(4)]
    for one in probes:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in probes]
    for one in probes:
        one.close()
    return Layout(
        data_dir=data_dir,
        tools_dir=tools_dir,
        kafka_port=ports[0],
        controller_port=ports[1],
        device_port=ports[2],
        service_port=ports[3],
        metrics_port=_metrics_port(ports),
    )


def _metrics_port(taken: list[int]) -> int:
    first = 20_000
    while any(first <= one < first + 30 for one in taken):
        first += 30
    return first


async def _run(layout: Layout, directory: Path) -> int:
    console, began = Console(), time.monotonic()
    started, stopping = asyncio.Event(), asyncio.Event()

    def told(child: supervisor.Child) -> None:
        if child.state == supervisor.RUNNING:
            console.print(f"  {child.process.name} is running")

    console.print("Starting Kafka, mosquitto, issuer, bridge and worker")
    running = asyncio.create_task(supervisor.Supervisor(layout, told).run(started, stopping))
    ready = asyncio.create_task(started.wait())
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    if not started.is_set():
        ready.cancel()
        await running
    try:
        report = await _live(layout, directory, console)
    finally:
        stopping.set()
        await running
    report["seconds"] = round(time.monotonic() - began, 1)
    (directory / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"\nThe report is {directory / 'report.json'}; {report['seconds']} s in all")
    return 0 if report["proofs_hold"] else 1


async def _live(layout: Layout, directory: Path, console: Console) -> dict[str, object]:
    """Enrol, run the fleet until it has rotated, gather and judge."""
    client = Fleet(layout.bootstrap, actor="demo")
    await asyncio.to_thread(client.activate, demo.POLICY)
    plan = demo.plan(
        directory / "devices", layout.device_port, layout.pki_dir / "service-ca" / "ca.pem"
    )
    simulator = Simulator(plan)
    members = await asyncio.to_thread(
        demo.enrol,
        authority.load(layout.pki_dir),
        plan.directory,
        simulator.behaviours,
        client,
    )
    console.print(
        f"{len(members)} devices are registered, {demo.NEAR_EXPIRY} of them near expiry, "
        f"{sum(demo.MISBEHAVIOUR.values())} misbehave"
    )
    living = asyncio.create_task(simulator.run())
    await _watch(client, members, simulator, console)
    ended_at = time.time_ns() // 1_000_000
    simulator.stop()
    await living
    crl = layout.pki_dir / "device-ca" / "device.crl"
    evidence = await asyncio.to_thread(
        proofs.gather, client, layout.bootstrap, crl, plan.directory / "ledger.jsonl", ended_at
    )
    return _judge(evidence, members, console)


async def _watch(
    client: Fleet, members: list[demo.Member], simulator: Simulator, console: Console
) -> None:
    """Show the fleet until what is expected has happened, or the time is over."""
    until, told_at = time.monotonic() + ROTATE_SECONDS, 0.0
    expected = [one.device_id for one in members if one.should_rotate]
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while time.monotonic() < until:
            rows = await asyncio.to_thread(client.devices)
            done = [one for one in expected if proofs.rotated(rows.get(one))]
            if console.is_terminal:
                live.update(_picture(rows, len(done), simulator), refresh=True)
            elif time.monotonic() - told_at > TELL_SECONDS:
                told_at = time.monotonic()
                console.print(f"  {len(done)} of {len(expected)} rotated, {_states(rows)}")
            if len(done) == len(expected) and await asyncio.to_thread(_alerted, client, members):
                return
            await asyncio.sleep(LOOK_SECONDS)


def _alerted(client: Fleet, members: list[demo.Member]) -> bool:
    evidence = proofs.Evidence({}, {}, client.decisions(), [], set(), ended_at=sys.maxsize)
    return not proofs.missing(evidence, members)


def _states(rows: dict[str, DeviceRow]) -> str:
    counts: dict[str, int] = {}
    for row in rows.values():
        name = rotation.name(row.rotation)
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _picture(rows: dict[str, DeviceRow], done: int, simulator: Simulator) -> Table:
    table = Table(title=f"{len(rows)} devices, {done} rotated", title_justify="left")
    for column in ("rotation", "devices"):
        table.add_column(column)
    for part in _states(rows).split(", "):
        count, _, name = part.partition(" ")
        table.add_row(name, count)
    table.add_row("connected", str(sum(row.connected for row in rows.values())))
    table.add_row("alerts open", str(sum(anomaly.open_alerts(row) for row in rows.values())))
    table.add_row("events recorded", str(simulator.ledger.counts["recorded"]))
    return table


def _judge(
    evidence: proofs.Evidence, members: list[demo.Member], console: Console
) -> dict[str, object]:
    """Print the table of proofs and return the report."""
    all_proofs = [proofs.prove(evidence, one) for one in members if one.should_rotate]
    absent = proofs.missing(evidence, members)
    lost, twice = proofs.losses(evidence), proofs.duplicates(evidence)
    identical = all(one.identical for one in evidence.verdicts)
    _print_proofs(console, all_proofs)
    _print_alerts(console, evidence, members)
    for line in absent:
        console.print(f"MISSING {line}")
    for one in evidence.verdicts:
        state = "identical" if one.identical else f"DIFFERENT {one.difference}"
        console.print(
            f"replay of partition {one.partition}: {one.events} events, "
            f"digest {one.live_digest[:16]}, {state}"
        )
    holds = all(one.holds for one in all_proofs) and not absent and not lost and not twice
    rows = evidence.rows.values()
    return {
        "devices": len(rows),
        "rotated": sum(one.holds for one in all_proofs),
        "proven": sum(row.rotations > 0 for row in rows),
        "retired": sum(one.closed_offset >= 0 for row in rows for one in row.certificates),
        "refused": sum(one.name == "EventRefused" for one in evidence.decisions),
        "events_acknowledged": len(evidence.recorded),
        "events_lost": lost,
        "duplicate_effects": twice,
        "replay_identical": identical,
        "missing": absent,
        "alerts": sorted(f"{device}: {reason}" for device, reason in evidence.alerts()),
        "proofs": [asdict(one) | {"holds": one.holds} for one in all_proofs],
        "proofs_hold": holds and identical,
    }


def _print_proofs(console: Console, all_proofs: list[proofs.Proof]) -> None:
    title = "Proofs: certificates, offsets of first use and of closing, refusals after it"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in ("device", "behaviour", "old", "new", "used", "closed", "refused", "CRL", ""):
        table.add_column(column, no_wrap=True)
    for one in all_proofs:
        table.add_row(
            one.device_id,
            one.behaviour,
            one.old[:8],
            one.new[:8],
            str(one.first_used_offset),
            str(one.closed_offset),
            str(one.refused_after),
            "listed" if one.in_crl else "ABSENT",
            "holds" if one.holds else "FAILS",
        )
    console.print(table)


def _print_alerts(console: Console, evidence: proofs.Evidence, members: list[demo.Member]) -> None:
    behaviours = {one.device_id: one.behaviour for one in members}
    for device_id, reason in sorted(evidence.alerts() | evidence.failures()):
        sentence = SENTENCES[Reason(reason)]
        console.print(f"alert {device_id} ({behaviours.get(device_id)}): {reason}. {sentence}")


if __name__ == "__main__":
    sys.exit(main())
