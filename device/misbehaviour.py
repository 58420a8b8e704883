"""Devices that do not do what they should: each differs from the agent in one hook.

Rules of this file: one class, one fault; the docstring's first line says what the fleet will
see. `BEHAVIOURS` is the list that the simulator and the demo choose from.
"""

import asyncio
import contextlib
import random

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from device import durable, faults
from device.agent import Agent
from device.commands import Handlers
from device.payloads import DONE, REFUSED, Command, Reply
from device.store import Identity

OFFLINE_AFTER_SECONDS = 5.0
RETURN_SECONDS = 8.0
FLAP_SECONDS = (0.1, 0.4)
ERROR_SHARE = 0.5
DEATH = "store:after-identity"


class SimulatedAgent(Agent):
    """An honest device with a sensor; `error_share` of its readings are errors."""

    error_share = 0.01

    def reading(self) -> tuple[str, dict[str, object]]:
        """Return the type and body of the next event."""
        chance = random.SystemRandom()
        if chance.random() < self.error_share:
            return "error", {"code": "sensor", "retries": 3}
        return "reading", {"celsius": round(chance.gauss(21.0, 2.0), 2)}


class GoesOffline(SimulatedAgent):
    """Says nothing any more after a while: silent, its certificate runs out."""

    async def in_session(self) -> None:
        """Stop for good after OFFLINE_AFTER_SECONDS."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OFFLINE_AFTER_SECONDS):
                await super().in_session()
        self.stop()


class Flaps(SimulatedAgent):
    """Connects and disconnects all the time: flapping."""

    async def in_session(self) -> None:
        """End each session after a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.SystemRandom().uniform(*FLAP_SECONDS)):
                await super().in_session()


class SensorFails(SimulatedAgent):
    """Reports errors half of the time: error-rate."""

    error_share = ERROR_SHARE


class _NamesAnother(Handlers):
    def signing_request(self, key: PrivateKeyTypes, nonce: bytes) -> bytes:
        identity = self.identity or self.store.current()
        return self.signed(f"{self.device_id}-other", key, identity, nonce)


class NamesAnother(SimulatedAgent):
    """Asks for a certificate in another device's name: wrong-subject."""

    handlers_type = _NamesAnother


class _WrongNonce(Handlers):
    def signing_request(self, key: PrivateKeyTypes, nonce: bytes) -> bytes:
        return super().signing_request(key, bytes(255 - byte for byte in nonce))


class WrongNonce(SimulatedAgent):
    """Answers with a nonce that nobody gave it: wrong-nonce."""

    handlers_type = _WrongNonce


class _WeakKey(Handlers):
    def new_key(self, command: Command) -> PrivateKeyTypes:
        return rsa.generate_private_key(65537, 1024)  # noqa: S505 - weak on purpose


class WeakKey(SimulatedAgent):
    """Asks for a certificate for an RSA key of 1024 bits: weak-key."""

    handlers_type = _WeakKey


class _RefusesRotation(Handlers):
    def rotate(self, command: Command) -> Reply:
        return Reply(REFUSED, "no rotation today")


class RefusesRotation(SimulatedAgent):
    """Refuses every rotation: device-refused."""

    handlers_type = _RefusesRotation


class _DiesInstalling(Handlers):
    def install(self, command: Command) -> Reply:
        marker = self.store.directory / "died"
        if not marker.exists():
            durable.write(marker, DEATH.encode())
            faults.arm(DEATH)
        return super().install(command)


class DiesInstalling(SimulatedAgent):
    """Loses power once between two durable writes of an installation: must rotate all the same."""

    handlers_type = _DiesInstalling


class _KeepsOld(Handlers):
    def drop(self, command: Command) -> Reply:
        return Reply(DONE, "not really")


class UsesOldCertificate(SimulatedAgent):
    """Comes back under its old certificate after the rotation: certificate-retired."""

    handlers_type = _KeepsOld

    async def in_session(self) -> None:
        """End each session after RETURN_SECONDS, to come back under the old certificate."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETURN_SECONDS):
                await super().in_session()

    def pick_identity(self) -> Identity:
        """Return the newest identity for its proof of use, and the oldest at every other time."""
        if self.store.candidate() is not None:
            return super().pick_identity()
        return self.store.identities()[-1]


BEHAVIOURS: dict[str, type[SimulatedAgent]] = {
    "honest": SimulatedAgent,
    "goes-offline": GoesOffline,
    "flaps": Flaps,
    "sensor-fails": SensorFails,
    "names-another": NamesAnother,
    "wrong-nonce": WrongNonce,
    "weak-key": WeakKey,
    "refuses-rotation": RefusesRotation,
    "dies-installing": DiesInstalling,
    "uses-old-certificate": UsesOldCertificate,
}
