"""The DTLS 1.3 extension through Python: two associations in memory, and what may go wrong."""

import random
from pathlib import Path

import pytest

dtls13 = pytest.importorskip("fleetcert_dtls13", reason="built by `make setup` where Rust is")
FIXTURES = Path(__file__).parents[2] / "native" / "dtls13" / "tests" / "fixtures"


def identity(name: str) -> tuple[bytes, bytes]:
    """Return certificate and key of a fixture."""
    return tuple((FIXTURES / f"{name}.{part}.der").read_bytes() for part in ("cert", "key"))  # type: ignore[return-value]


def context(server: bool, name: str = "p256") -> "dtls13.Context":
    """Return a context for one end."""
    return dtls13.Context(*identity(name), server=server)


class Pair:
    """Client and server, joined by function calls; `said` is what each end was told."""

    def __init__(self, server: "dtls13.Context") -> None:
        self.ends = [dtls13.Association(context(False, "p384")), dtls13.Association(server)]
        self.said: list[list[tuple[str, bytes]]] = [[], []]
        self.take(0, self.ends[0].tick())

    def take(self, end: int, outputs: "dtls13.Told") -> None:
        """Carry datagrams over, keep everything else."""
        for kind, data in outputs:
            if kind == "datagram":
                self.take(1 - end, self.ends[1 - end].receive(data))
            else:
                self.said[end].append((kind, data))


def test_both_ends_are_connected_with_the_others_certificate() -> None:
    """A handshake in memory gives each end the other's leaf, and messages go through."""
    pair = Pair(context(True))
    assert pair.said == [
        [("connected", identity("p256")[0])],
        [("connected", identity("p384")[0])],
    ]
    pair.take(0, pair.ends[0].send(b"up"))
    pair.take(1, pair.ends[1].send(b"down"))
    assert [one[-1] for one in pair.said] == [("data", b"down"), ("data", b"up")]


def test_closing_is_told_and_what_is_closed_is_silent() -> None:
    """`close` reaches the other end; both then answer nothing and have nothing due."""
    pair = Pair(context(True))
    pair.take(1, pair.ends[1].close())
    assert pair.said[0][-1] == ("closed", b"")
    assert [one.delay() for one in pair.ends] == [None, None]
    assert pair.ends[0].send(b"late") == []


def test_one_context_serves_many_associations() -> None:
    """The server's context is shared; each association has keys of its own."""
    server = context(True)
    first, second = Pair(server), Pair(server)
    ((kind, sealed),) = first.ends[0].send(b"for the first")
    assert kind == "datagram"
    assert second.ends[1].receive(sealed) == []
    assert first.ends[1].receive(sealed) == [("data", b"for the first")]


def test_an_unusable_key_is_a_value_error() -> None:
    """Ed25519, garbage, and an impossible limit are refused when the context is made."""
    with pytest.raises(ValueError, match="not ECDSA P-256 or P-384"):
        context(True, "ed25519")
    with pytest.raises(ValueError, match="not ECDSA P-256 or P-384"):
        dtls13.Context(identity("p256")[0], b"garbage", server=True)
    with pytest.raises(ValueError, match=r".+"):
        dtls13.Context(*identity("p256"), server=True, retransmit_seconds=-1)


def test_a_message_that_fits_no_datagram_is_a_value_error() -> None:
    """Application data is not fragmented; the association goes on."""
    pair = Pair(context(True))
    most = context(True).send_bytes_max
    with pytest.raises(ValueError, match=r"do not fit a datagram"):
        pair.ends[0].send(b"x" * (most + 1))
    pair.take(0, pair.ends[0].send(b"x" * most))
    assert pair.said[1][-1] == ("data", b"x" * most)


def test_garbage_neither_raises_nor_ends_an_association() -> None:
    """Ten thousand datagrams of every record type later, the association works."""
    dice, pair = random.Random(5), Pair(context(True))
    for _ in range(10_000):
        first = dice.choice((20, 21, 22, 23, 26, 0x2C, 0x2F, 0x3F, 0xFF))
        datagram = bytes([first]) + dice.randbytes(dice.randrange(120))
        assert [kind for kind, _ in pair.ends[1].receive(datagram) if kind != "datagram"] == []
    assert pair.ends[1].receive(b"\x2f" * 65_000) == []
    pair.take(0, pair.ends[0].send(b"still here"))
    assert pair.said[1][-1] == ("data", b"still here")
