"""Which identity to connect with: the new one first, the old one when the new one is refused.

Rules of this file: only a *refusal* by a broker that was there counts against an identity; a
network that is away proves nothing. Nothing is forgotten here: what worked is written down, and
an identity leaves the store on DropCertificate only.
"""

import logging

from device.store import Identity, Store

REFUSALS_MAX = 3
"""How many refusals in a row make the agent try its next identity."""

_log = logging.getLogger("fleetcert.device.identities")


class Choice:
    """Goes round the identities: candidate, current, any others; each for `refusals_max` tries."""

    def __init__(self, store: Store, refusals_max: int = REFUSALS_MAX) -> None:
        self._store = store
        self._refusals_max = refusals_max
        self._refusals = 0
        self._turn = 0

    def pick(self) -> Identity:
        """Return the identity to connect with now. Raises NoIdentity when there is none."""
        ordered = self._ordered()
        return ordered[self._turn % len(ordered)]

    def refused(self, identity: Identity) -> None:
        """Count a refusal; after enough of them it is the next identity's turn."""
        self._refusals += 1
        if self._refusals >= self._refusals_max:
            self._turn += 1
            self._refusals = 0
            _log.warning("identity refused fingerprint=%s", identity.fingerprint)

    def worked(self, identity: Identity) -> None:
        """Write down that this identity is in use; an open trial of another one is over."""
        self._store.settle(identity.fingerprint)
        self.start_over()

    def start_over(self) -> None:
        """Begin with the first identity again: after success, and after an installation."""
        self._turn = self._refusals = 0

    def _ordered(self) -> list[Identity]:
        candidate, current = self._store.candidate(), self._store.current()
        ordered = [candidate, current] if candidate else [current]
        known = {one.fingerprint for one in ordered}
        others = [one for one in self._store.identities() if one.fingerprint not in known]
        return list({one.fingerprint: one for one in [*ordered, *others]}.values())
