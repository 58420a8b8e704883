"""The demo's fleet: which devices there are, what each does wrong, how near its end each one is."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from client.fleet import Fleet
from device import provision
from device.simulator import Plan
from device.store import Store
from pki import authority
from pki.profile import issue_device
from schemas.reasons import Reason
from schemas.states import Policy

PREFIX = "pump"
DEVICES = 50
NEAR_EXPIRY = 30
NEAR_DAYS, FAR_DAYS = 30, 90
"""What a certificate has left; it nears its end now, or in two months (`POLICY`)."""
BACKDATE = timedelta(minutes=5)
"""Certificates hold from so long ago on, for clocks that differ; they live so much longer."""
DRAIN_SECONDS = 5.0
"""Devices that come back under a retired certificate keep what they say for ever."""
COAP_EVERY = 5
"""Each fifth device speaks CoAP, over TCP and, where DTLS 1.3 is built, UDP in turn."""

MISBEHAVIOUR = {
    "goes-offline": 1,
    "names-another": 1,
    "wrong-nonce": 1,
    "weak-key": 1,
    "refuses-rotation": 1,
    "dies-installing": 2,
    "uses-old-certificate": 2,
    "flaps": 1,
    "sensor-fails": 1,
}
"""How many devices do what wrong; the first ones of the fleet, all of them near expiry."""

NEVER_ROTATE = {"goes-offline", "names-another", "wrong-nonce", "weak-key", "refuses-rotation"}

EXPECTED_ALERTS = {
    "goes-offline": Reason.SILENT,
    "uses-old-certificate": Reason.CERTIFICATE_RETIRED,
    "flaps": Reason.FLAPPING,
    "sensor-fails": Reason.ERROR_RATE,
}
EXPECTED_FAILURES = {
    "names-another": Reason.WRONG_SUBJECT,
    "wrong-nonce": Reason.WRONG_NONCE,
    "weak-key": Reason.WEAK_KEY,
    "refuses-rotation": Reason.DEVICE_REFUSED,
}

POLICY = Policy(
    days_before_expiry=NEAR_DAYS,
    stagger_ms=10_000,
    answer_within_ms=15_000,
    issue_within_ms=15_000,
    prove_within_ms=20_000,
    grace_ms=5_000,
    backoff_ms=2_000,
    backoff_max_ms=4_000,
    attempts_max=2,
    window_ms=5_000,
    silent_after_ms=15_000,
)
"""The machine's patience in the demo: seconds where a fleet would have minutes."""


@dataclass(frozen=True, slots=True)
class Member:
    """One device of the demo."""

    device_id: str
    behaviour: str
    near_expiry: bool
    fingerprint: bytes

    @property
    def should_rotate(self) -> bool:
        """Tell whether the demo expects a whole rotation."""
        return self.near_expiry and self.behaviour not in NEVER_ROTATE


def plan(directory: Path, port: int, coap_port: int, ca_file: Path) -> Plan:
    """Return what the simulator runs."""
    shares = {name: count / DEVICES for name, count in MISBEHAVIOUR.items()}
    return Plan(
        directory=directory,
        host="localhost",
        port=port,
        ca_file=ca_file,
        count=DEVICES,
        rate=1.0,
        prefix=PREFIX,
        shares=shares,
        drain_seconds=DRAIN_SECONDS,
        coap_every=COAP_EVERY,
        coap_port=coap_port,
    )


def enrol(
    authorities: authority.Authority,
    directory: Path,
    behaviours: dict[str, str],
    fleet: Fleet,
    near_expiry: int = NEAR_EXPIRY,
) -> list[Member]:
    """Give each device its first certificate, on its own key, and register it.

    The certificates of the first `near_expiry` devices near their end.
    """
    members = []
    for number, (device_id, behaviour) in enumerate(behaviours.items()):
        near = number < near_expiry
        folder = directory / device_id
        days = NEAR_DAYS if near else FAR_DAYS
        der = _first_certificate(authorities, device_id, folder, days)
        fleet.register(device_id, "pump", certificate=der, wait=False)
        held = provision.adopt(device_id, folder, x509.load_der_x509_certificate(der))
        members.append(Member(device_id, behaviour, near, bytes.fromhex(held.fingerprint)))
    fleet.flush()
    return members


def _first_certificate(
    authorities: authority.Authority, device_id: str, folder: Path, days: int
) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    key: CertificatePublicKeyTypes = Store(folder).pending_key(provision.ENROLMENT).public_key()
    now = datetime.fromtimestamp(int(time.time()), UTC)
    lifetime = timedelta(days=days) + BACKDATE
    return issue_device(
        authorities, device_id, key, f"enrolment-{device_id}", now - BACKDATE, lifetime
    )
