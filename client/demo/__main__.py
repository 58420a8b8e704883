"""`python -m client.demo`: start a stack of its own, run the fleet, prove, report, stop.

Exit code 0 only if every proof holds, 130 after Ctrl-C. Works without a terminal; writes
`report.json`, and with --svg a picture of this run.
"""

import argparse
import asyncio
import json
import logging
import sys
import time
from pathlib import Path

from rich.live import Live

from client import terminal
from client.demo import fleet as demo
from client.demo import picture, proofs, report, stage, svg
from client.demo.watch import Snapshot, Watch
from client.fleet import Fleet
from client.local import supervisor
from client.local.errors import LocalError
from client.local.layout import Layout
from device.simulator import Simulator
from pki import authority

ROTATE_SECONDS = 90.0
LOOK_SECONDS = 0.25
TELL_SECONDS = 5.0
EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m client.demo", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("var/demo"))
    parser.add_argument("--tools", type=Path, default=Path("var/tools"))
    parser.add_argument("--svg", type=Path, help="draw this run into a file")
    options = parser.parse_args(argv)
    try:
        layout = stage.prepare(options.directory, options.tools)
        logging.basicConfig(filename=options.directory / "devices.log", level=logging.WARNING)
        return asyncio.run(Demo(layout, options.directory, options.svg).run())
    except LocalError as error:
        sys.stderr.write(f"demo: {error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("demo: interrupted; the stack is stopped\n")
        return EXIT_INTERRUPTED


class Demo:
    """One run."""

    def __init__(self, layout: Layout, directory: Path, svg_file: Path | None) -> None:
        self._layout, self._directory, self._svg = layout, directory, svg_file
        self._console = terminal.console()
        self._processes: dict[str, str] = {}
        self._richest: Snapshot | None = None
        self._began = time.monotonic()

    async def run(self) -> int:
        """Start, show, prove, stop; also when it is interrupted."""
        started, stopping = asyncio.Event(), asyncio.Event()
        self._console.print("Starting Kafka, mosquitto, issuer, bridges and worker")
        stack = supervisor.Supervisor(self._layout, self._told)
        running = asyncio.create_task(stack.run(started, stopping))
        try:
            await self._until_started(running, started)
            judged = await self._live()
        finally:
            stopping.set()
            await running
        return self._conclude(judged)

    def _told(self, child: supervisor.Child) -> None:
        name, before = child.process.name, self._processes.get(child.process.name)
        self._processes[name] = child.state
        if child.state == supervisor.RUNNING and before == supervisor.STARTING:
            self._console.print(f"  {name} is running, {time.monotonic() - self._began:.1f} s")

    async def _until_started(self, running: asyncio.Task[None], started: asyncio.Event) -> None:
        ready = asyncio.create_task(started.wait())
        await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not started.is_set():
            await running

    async def _live(self) -> report.Judgement:
        """Enrol, run the fleet until it has rotated, gather and judge."""
        layout, client = self._layout, Fleet(self._layout.cluster, actor="demo")
        await asyncio.to_thread(client.activate, demo.POLICY)
        ca = layout.pki_dir / "service-ca" / "ca.pem"
        plan = demo.plan(self._directory / "devices", layout.device_port, layout.coap_port, ca)
        simulator = Simulator(plan)
        authorities = authority.load(layout.pki_dir)
        members = await asyncio.to_thread(
            demo.enrol, authorities, plan.directory, simulator.behaviours, client
        )
        self._console.print(
            f"{len(members)} devices are registered, {demo.NEAR_EXPIRY} of them near expiry, "
            f"{sum(demo.MISBEHAVIOUR.values())} misbehave, each {demo.COAP_EVERY}th speaks CoAP"
        )
        watch, living = Watch(client), asyncio.create_task(simulator.run())
        watch.start()
        try:
            await self._show(watch, members, simulator)
            ended_at = time.time_ns() // 1_000_000
            simulator.stop()
            await living
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            await asyncio.to_thread(watch.stop)
        self._console.print("Reading the whole history again, for the proofs")
        device_ca, ledger = layout.pki_dir / "device-ca", plan.directory / "ledger.jsonl"
        evidence = await asyncio.to_thread(
            proofs.gather, client, layout.cluster, device_ca, ledger, ended_at
        )
        return report.judge(evidence, members)

    async def _show(self, watch: Watch, members: list[demo.Member], simulator: Simulator) -> None:
        """Show the fleet until what is expected has happened, or the time is over."""
        until, told_at = time.monotonic() + ROTATE_SECONDS, 0.0
        expected = [one.device_id for one in members if one.should_rotate]
        with Live(console=self._console, auto_refresh=False, redirect_stderr=False) as live:
            while time.monotonic() < until:
                await asyncio.sleep(LOOK_SECONDS)
                done = sum(proofs.rotated(watch.row(one)) for one in expected)
                seen = watch.snapshot(
                    simulator.ledger.counts["recorded"], self._processes, len(expected), done
                )
                if self._richest is None or seen.richness >= self._richest.richness:
                    self._richest = seen
                if self._console.is_terminal:
                    live.update(picture.draw(seen), refresh=True)
                elif time.monotonic() - told_at > TELL_SECONDS:
                    told_at = time.monotonic()
                    self._console.print(f"  {_line(seen)}")
                if done == len(expected) and not watch.unanswered(members):
                    return

    def _conclude(self, judged: report.Judgement) -> int:
        """Print and write what was proven."""
        self._console.print(report.draw(judged))
        seconds = round(time.monotonic() - self._began, 1)
        path = self._directory / "report.json"
        path.write_text(json.dumps(report.report(judged) | {"seconds": seconds}, indent=2) + "\n")
        verdict = "All proofs hold" if judged.holds else "NOT ALL PROOFS HOLD"
        style = "bold green" if judged.holds else "bold red"
        self._console.print(f"\n{verdict}; {seconds} s in all. The report is {path}", style=style)
        if self._svg is not None and self._richest is not None:
            svg.write(self._svg, picture.draw(self._richest), report.draw(judged, rows_max=8))
            self._console.print(f"The picture is {self._svg}")
        return 0 if judged.holds else EXIT_FAILED


def _line(seen: Snapshot) -> str:
    states = ", ".join(f"{count} {name}" for name, count in sorted(seen.states.items())) or "none"
    return (
        f"{seen.seconds:3.0f} s: {seen.done} of {seen.expected} rotated; {states}; "
        f"{seen.recorded} events recorded, {len(seen.alerts)} alerts"
    )


if __name__ == "__main__":
    sys.exit(main())
