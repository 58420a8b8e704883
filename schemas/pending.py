"""Who is not registered yet: the row of a device that waits for an operator's approval."""

from dataclasses import dataclass

from schemas.states import HeldCertificate

MODES = OFF, AUTOMATIC, APPROVAL = ("off", "automatic", "approval")
"""What becomes of an unknown device that a provisioning CA names: `Policy.just_in_time`."""


@dataclass(frozen=True, slots=True)
class PendingRow:
    """A device that waits for an operator's approval, under the key of the device it would be.

    `session` is the one that is open, empty for none; `session_counter` is the last one's. A
    `rejected_at` that is not zero: an operator said no to this certificate; a `lapsed_at`: nobody
    said anything in time, and the device waits no longer until it comes again.
    """

    applied_offset: int
    next_due_at: int
    device_id: str
    certificate: HeldCertificate
    protocol: str
    peer_address: str
    session: str
    session_counter: int
    first_seen_at: int
    last_seen_at: int
    rejected_at: int = 0
    rejected_by: str = ""
    lapsed_at: int = 0
