"""`python -m bridges est`: the options of the HTTPS door of EST, and its life."""

import argparse
import asyncio
from pathlib import Path

import structlog

from bridges import run as life
from bridges.commands import AllCommands
from bridges.confirming import Confirmed
from bridges.door import Door, Refusals
from bridges.est.meter import Meter
from bridges.est.renewals import PATIENCE_SECONDS, Registrar, Renewals
from bridges.est.server import EstServer, Settings
from bridges.kafka import Full, Recorder
from protocols.exposition import Registry
from schemas import codec, events
from schemas.commands import Command, RefuseCertificate
from schemas.envelope import RENEWAL
from schemas.topics import DEVICE_EVENTS

log = structlog.get_logger()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the door can be told."""
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8443)
    for name, what in (
        ("--cert", "our certificate, PEM, of a registration authority"),
        ("--key", "our key"),
        ("--device-ca", "the device CA, and those before it"),
    ):
        parser.add_argument(name, type=Path, required=True, help=what)
    parser.add_argument("--revocation-list", type=Path, help="read again when it changes")
    parser.add_argument(
        "--ca-certificates",
        type=Path,
        nargs="*",
        default=[],
        help="what /cacerts hands out, PEM: the CAs of devices and of this door",
    )
    parser.add_argument(
        "--grace-days", type=float, default=30.0, help="how long an expired certificate may renew"
    )


class EstBridge:
    """The HTTPS door as the life of a bridge process sees it: it holds no sessions."""

    door = RENEWAL

    def __init__(self, settings: Settings, recorder: Recorder, meter: Meter) -> None:
        self._recorder = recorder
        self._confirmed = Confirmed(recorder, settings.record_seconds)
        self._judge = Door(settings.device_ca, settings.revocation_list, settings.grace)
        self._renewals = Renewals(
            Registrar.load(settings.certificate, settings.key),
            self._confirmed.record,
            meter,
            PATIENCE_SECONDS,
        )
        refusals = Refusals(self._judge, self._tell, meter.refused)
        self.server = EstServer(settings, self._renewals, self._judge, refusals, meter)
        self.caught_up = asyncio.Event()

    async def own(self, buckets: set[int]) -> None:
        """Hold nothing."""

    def progressed(self) -> None:
        """Do nothing: each request waits for its own record."""

    def served(self) -> list[int]:
        """Return none: no device lives behind this door."""
        return []

    async def keep_down(self) -> None:
        """Open the door once the refusals of the past are known."""
        polling = asyncio.create_task(self._confirmed.poll())
        try:
            await self.caught_up.wait()
            await self.server.open()
            log.info("est.offered", port=self.server.port)
            await asyncio.Event().wait()
        finally:
            polling.cancel()

    async def deliver(self, command: Command) -> None:
        """Take a word of the machine: a refusal for the door, or an answer for who waits."""
        if isinstance(command, RefuseCertificate):
            self._judge.refuse(command.fingerprint)
        else:
            self._renewals.deliver(command)

    async def close(self) -> None:
        """Close the door."""
        await self.server.close()

    def _tell(self, device_id: str, said: events.Keyed) -> None:
        try:
            self._recorder.record(
                DEVICE_EVENTS, device_id.encode(), codec.encode(said), lambda: None
            )
        except Full as error:
            log.warning("refusal.untold", error=str(error))


def settings(options: argparse.Namespace) -> Settings:
    """Return the settings that the options are."""
    return Settings(
        certificate=options.cert,
        key=options.key,
        device_ca=options.device_ca,
        ca_certificates=tuple(options.ca_certificates) or (options.device_ca,),
        revocation_list=options.revocation_list,
        host=options.host,
        port=options.port,
        grace_days=options.grace_days,
    )


def run(options: argparse.Namespace, registry: Registry) -> None:
    """Run the door until SIGTERM."""
    meter, wanted = Meter(registry), settings(options)

    def make(recorder: Recorder) -> EstBridge:
        meter.recorder.watch(recorder)
        return EstBridge(wanted, recorder, meter)

    def source(bridge: EstBridge) -> AllCommands:
        return AllCommands(options.bootstrap, bridge.deliver, bridge.caught_up, "est-doors")

    asyncio.run(life.live(Recorder(options.bootstrap), make, source))
