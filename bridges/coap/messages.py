"""The message layer of CoAP over UDP (RFC 7252 section 4), on aiocoap's, with bounded memory.

Rules of this file: what aiocoap keeps for 247 s per message and for all peers is kept per peer, for
its last messages only: a client has one exchange open at a time (NSTART), so a repeat is always a
recent one. And a notification that is confirmed costs the same with one observer as with thousands.
"""

import time
from collections import Counter
from typing import Any

from aiocoap.messagemanager import MessageManager
from aiocoap.numbers import ACK, CON, RST

RECENT_MAX = 32
"""Message ids remembered per peer, with the answer where there is one."""
EXCHANGE_SECONDS = 247.0
"""EXCHANGE_LIFETIME of RFC 7252 section 4.8.2: a message id may mean something new after it."""


class BoundedMessageManager(MessageManager):  # type: ignore[misc] # aiocoap is untyped
    """aiocoap's message manager with two of its tables replaced."""

    def __init__(self, token_manager: Any) -> None:
        super().__init__(token_manager)
        self._open: Counter[Any] = Counter()

    def _deduplicate_message(self, message: Any) -> bool:
        """Tell whether the message is a repeat; answer it again where it had an answer."""
        recent, now = message.remote.recent, time.monotonic()
        seen = recent.get(message.mid)
        if seen is not None and now - seen[0] < EXCHANGE_SECONDS:
            if message.mtype is CON and seen[1] is not None:
                self._send_via_transport(seen[1])
            return True
        recent.pop(message.mid, None)
        recent[message.mid] = (now, None)
        if len(recent) > RECENT_MAX:
            recent.popitem(last=False)
        return False

    def _store_response_for_duplicates(self, message: Any) -> None:
        """Keep an answer with the request it acknowledges; our own ids are another space."""
        recent = message.remote.recent
        if message.mtype in (ACK, RST) and message.mid in recent:
            recent[message.mid] = (recent[message.mid][0], message)

    def _add_exchange(self, message: Any, messageerror_monitor: Any) -> None:
        super()._add_exchange(message, messageerror_monitor)
        self._open[message.remote] += 1

    def _continue_backlog(self, remote: Any) -> None:
        """Send what waited for the end of the peer's open exchange."""
        self._open[remote] = max(0, self._open[remote] - 1)
        backlog = self._backlogs.get(remote)
        while backlog and not self._open[remote]:
            self._send_initially(*backlog.pop(0))
        if not backlog and not self._open[remote]:
            self._backlogs.pop(remote, None)
            del self._open[remote]

    def _retransmit(self, message: Any, timeout: float, retransmission_counter: int) -> None:
        super()._retransmit(message, timeout, retransmission_counter)
        if (message.remote, message.mid) not in self._active_exchanges:  # it was the last try
            self._open.pop(message.remote, None)

    def dispatch_error(self, error: Any, remote: Any) -> None:
        """Forget the peer's exchanges."""
        super().dispatch_error(error, remote)
        self._open.pop(remote, None)


class ForgetfulMessageManager(MessageManager):  # type: ignore[misc] # aiocoap is untyped
    """For plain CoAP, which serves discovery alone: idempotent, so no repeat need be known."""

    def _deduplicate_message(self, message: Any) -> bool:
        """Tell that nothing is a repeat."""
        return False

    def _store_response_for_duplicates(self, message: Any) -> None:
        """Keep nothing."""
