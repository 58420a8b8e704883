"""How patient an agent is, and how much it keeps."""

from dataclasses import dataclass

from device.identities import REFUSALS_MAX
from device.outbox import ITEMS_MAX, Durability
from device.payloads import CBOR


@dataclass(frozen=True, slots=True)
class Settings:
    """The defaults suit a device on a mobile network.

    `content_type` is that of events and replies; `settle_seconds` bounds the wait for the PUBACK
    of the reply to InstallCertificate before the identity changes.
    """

    content_type: str = CBOR
    items_max: int = ITEMS_MAX
    durability: Durability = Durability.POWER
    refusals_max: int = REFUSALS_MAX
    resend_seconds: float = 10.0
    settle_seconds: float = 30.0
    backoff_seconds: float = 0.5
    backoff_max_seconds: float = 60.0
    keep_alive_seconds: int = 60
