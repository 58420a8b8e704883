"""DTLS 1.3 associations (RFC 9147), sans-IO: the caller owns the socket and the clock."""

from typing import Literal

Kind = Literal["datagram", "connected", "data", "closed", "failed"]
Told = list[tuple[Kind, bytes]]

class Context:
    """What all associations of one identity share; making one takes milliseconds."""

    def __new__(
        cls,
        certificate: bytes,
        private_key: bytes,
        *,
        server: bool,
        mtu: int = 1232,
        retransmit_seconds: float = 1.0,
        retries: int = 6,
        handshake_seconds: float = 40.0,
    ) -> Context:
        """Take certificate and key (PKCS #8 or SEC 1), both DER.

        Raises ValueError for a key other than ECDSA P-256 or P-384, and for a limit out of range.
        """
    @property
    def send_bytes_max(self) -> int:
        """The longest message of one `send`."""

class Association:
    """One association. Every call returns all that came of it, in order.

    `datagram`: send it. `connected`: the peer owns the key of this certificate (DER); who issued
    it is for the caller to judge, before anything that follows counts. `data`: one message.
    `closed`: the peer ended it. `failed`: it is over, and why. After the last two, and after
    `close`, every call returns nothing.
    """

    def __new__(cls, context: Context) -> Association:
        """Begin; a client's first datagram comes from the first `tick`."""
    def receive(self, datagram: bytes) -> Told:
        """Take one datagram; garbage, repeats and what is too long are passed over."""
    def tick(self) -> Told:
        """Do what is due; see `delay`."""
    def send(self, data: bytes) -> Told:
        """Send one message. Raises ValueError where it is longer than `send_bytes_max`."""
    def close(self) -> Told:
        """End it; what is returned is at most the datagram that says so."""
    def delay(self) -> float | None:
        """Seconds until `tick` is due; None once it is over."""
