"""`python -m bridges est`: the options of the HTTPS door of EST, and its life."""

import asyncio
import tempfile
from pathlib import Path
from typing import get_args

import structlog

from bridges import run as life
from bridges.commands import AllCommands
from bridges.confirming import Confirmed
from bridges.door import Door, Refusals
from bridges.est.invitations import Invitations
from bridges.est.meter import Meter
from bridges.est.renewals import PATIENCE_SECONDS, Registrar, Renewals
from bridges.est.server import EstServer, Settings
from bridges.files import identity, kept
from bridges.kafka import Full, Recorder
from configuration.iot import Est
from configuration.model import Configuration
from protocols.exposition import Registry
from schemas import codec, events
from schemas.commands import Command, ForEnrolment, RefuseCertificate
from schemas.envelope import RENEWAL
from schemas.topics import DEVICE_EVENTS, DEVICE_INVITATIONS

log = structlog.get_logger()


OPTIONS = {
    "--host": "iot.est.host",
    "--port": "iot.est.port",
    "--client-id": "iot.est.clientId",
    "--cert": "iot.est.tls.cert",
    "--key": "iot.est.tls.key",
    "--device-ca": "iot.est.tls.ca",
    "--revocation-list": "iot.est.revocationList",
    "--ca-certificates": "iot.est.caCertificates",
    "--grace-days": "issuer.graceDays",
}


class EstBridge:
    """The HTTPS door as the life of a bridge process sees it: it holds no sessions."""

    door = RENEWAL

    def __init__(self, settings: Settings, recorder: Recorder, meter: Meter) -> None:
        self._recorder = recorder
        self._confirmed = Confirmed(recorder, settings.record_seconds)
        self._judge = Door(settings.device_ca, settings.revocation_list, settings.grace)
        us = Registrar.load(settings.certificate, settings.key)
        self._renewals = Renewals(us, self._confirmed.record, meter, PATIENCE_SECONDS)
        self.invitations = Invitations(us, self._confirmed.record, meter, PATIENCE_SECONDS)
        refusals = Refusals(self._judge, self._tell, meter.refused)
        self.server = EstServer(
            settings, self._renewals, self.invitations, self._judge, refusals, meter
        )
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

    async def deliver(self, command: Command | ForEnrolment) -> None:
        """Take a word of the machine: a refusal for the door, or an answer for who waits.

        Or one about invited devices, of an operator or the issuer.
        """
        if isinstance(command, ForEnrolment):
            self.invitations.deliver(command)
        elif isinstance(command, RefuseCertificate):
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


def settings(own: Est, folder: Path, grace_days: float = 30.0) -> Settings:
    """Return the door's settings; PEM text of the configuration is kept in `folder`.

    Raises InvalidConfiguration where the identity is missing.
    """
    certificate, key, device_ca = identity(own.tls, "iot.est", folder)
    return Settings(
        certificate=certificate,
        key=key,
        device_ca=device_ca,
        ca_certificates=(kept(folder / "cas.pem", *(own.ca_certificates or own.tls.ca)),),
        revocation_list=Path(own.revocation_list) if own.revocation_list else None,
        host=own.host,
        port=own.port,
        grace_days=grace_days,
    )


def run(found: Configuration, registry: Registry) -> None:
    """Run the door until SIGTERM."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = settings(found.iot.est, Path(folder), found.issuer.grace_days)
        _run(found, wanted, registry)


def _run(found: Configuration, wanted: Settings, registry: Registry) -> None:
    meter, client_id = Meter(registry), found.iot.est.client_id or "est"

    def make(recorder: Recorder) -> EstBridge:
        meter.recorder.watch(recorder)
        return EstBridge(wanted, recorder, meter)

    def source(bridge: EstBridge) -> AllCommands:
        return AllCommands(
            found.cluster,
            bridge.deliver,
            bridge.caught_up,
            "est-doors",
            {DEVICE_INVITATIONS: get_args(ForEnrolment)},
        )

    asyncio.run(life.live(Recorder(found.cluster, client_id=client_id), make, source))
