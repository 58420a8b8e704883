"""DTLS 1.2 (RFC 6347) for older devices, on pyOpenSSL: the same association as DTLS 1.3.

Rules of this file: only where the configuration names it. AEAD suites with ECDHE and ECDSA, the
extended master secret (RFC 7627; hello.py), no renegotiation, no resumption, no ticket; a
stateless cookie bound to the address comes before anything else. Validity in time is left to the
door (see tcp.py).
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL.crypto import X509StoreFlags

MTU = 1_232
"""The UDP payload that fits the smallest MTU of IPv6: 1,280 less two headers."""
SUITES = (
    b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"
    b"ECDHE-ECDSA-AES128-CCM:ECDHE-ECDSA-AES256-CCM:ECDHE-ECDSA-AES128-CCM8"
)
DTLS_1_2 = 0xFEFD
NO_CHECK_TIME = 0x200000
PARTIAL_CHAIN = 0x80000
RECORD = struct.Struct("!11xH")
READ_BYTES = 16_384
BIO_BYTES = 1 << 17

Kind = Literal["datagram", "connected", "data", "closed", "failed"]
Told = list[tuple[Kind, bytes]]


class Context:
    """What all associations share, and the stateless half of the handshake."""

    def __init__(self, certificate: Path, key: Path, *device_cas: Path) -> None:
        self._secret = os.urandom(32)
        context = self._context = SSL.Context(SSL.DTLS_SERVER_METHOD)
        context.set_min_proto_version(DTLS_1_2)
        context.use_certificate_chain_file(str(certificate))
        context.use_privatekey_file(str(key))
        context.check_privatekey()
        for trusted in device_cas:
            context.load_verify_locations(str(trusted))
        store = context.get_cert_store()
        assert store is not None
        store.set_flags(X509StoreFlags.PARTIAL_CHAIN | NO_CHECK_TIME)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        context.set_options(
            SSL.OP_NO_QUERY_MTU
            | SSL.OP_NO_TICKET
            | SSL.OP_NO_RENEGOTIATION
            | SSL.OP_CIPHER_SERVER_PREFERENCE
        )
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_cipher_list(SUITES)
        context.set_cookie_generate_callback(self._cookie)
        context.set_cookie_verify_callback(
            lambda connection, cookie: hmac.compare_digest(cookie, self._cookie(connection))
        )
        self._listening: SSL.Connection | None = None

    def hello(self, datagram: bytes, address: object) -> tuple[bytes, "Association | None"]:
        """Answer a ClientHello: with what to send, and an association once the cookie is right.

        Nothing is kept until then.
        """
        connection, self._listening = self._listening or self._new(), None
        connection.set_app_data(address)
        connection.bio_write(datagram)
        try:
            connection.DTLSv1_listen()
        except SSL.WantReadError:
            self._listening = connection
            return _read(connection), None
        except SSL.Error:
            return b"", None
        connection.set_ciphertext_mtu(MTU)
        return b"", Association(connection)

    def _new(self) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_ciphertext_mtu(MTU)
        connection.set_accept_state()
        return connection

    def _cookie(self, connection: SSL.Connection) -> bytes:
        address = repr(connection.get_app_data()).encode()
        return hmac.digest(self._secret, address, hashlib.sha256)


class Association:
    """One association; see `fleetcert_dtls13.pyi` for what each call returns."""

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection: SSL.Connection | None = connection
        self._connected = False

    def receive(self, datagram: bytes) -> Told:
        """Take one datagram."""
        if self._connection is not None and datagram:
            self._connection.bio_write(datagram)
        return self._step()

    def tick(self) -> Told:
        """Send the last flight again, where that is due."""
        if self._connection is None:
            return []
        try:
            self._connection.DTLSv1_handle_timeout()
        except SSL.Error as error:
            return self._failed(error)
        return self._flushed()

    def send(self, data: bytes) -> Told:
        """Send one message."""
        if self._connection is None:
            return []
        if len(data) > MTU:
            raise ValueError(f"{len(data)} bytes do not fit a datagram, at most {MTU} do")
        try:
            self._connection.send(data)
        except SSL.Error as error:
            return self._failed(error)
        return self._flushed()

    def close(self) -> Told:
        """Say that it is over."""
        if self._connection is None:
            return []
        told: Told = []
        if self._connected:
            try:
                self._connection.shutdown()
                told = self._flushed()
            except SSL.Error:
                told = []
        self._connection = None
        return told

    def delay(self) -> float | None:
        """Return the seconds until `tick` is due; None where nothing is."""
        if self._connection is None or self._connected:
            return None
        left = self._connection.DTLSv1_get_timeout()
        return None if left is None else float(left)

    def _step(self) -> Told:
        if self._connection is None:
            return []
        told: Told = []
        try:
            if not self._connected:
                self._connection.do_handshake()
                self._connected = True
                told.append(("connected", _peer(self._connection)))
            while True:
                told.append(("data", self._connection.recv(READ_BYTES)))
        except SSL.WantReadError:
            return self._flushed() + told
        except SSL.ZeroReturnError:
            told += self.close()
            return [*told, ("closed", b"")]
        except SSL.Error as error:
            return told + self._failed(error)

    def _flushed(self) -> Told:
        assert self._connection is not None
        return [("datagram", one) for one in datagrams(_read(self._connection))]

    def _failed(self, error: SSL.Error) -> Told:
        told = self._flushed()  # the alert
        self._connection = None
        return [*told, ("failed", _why(error).encode())]


def datagrams(stream: bytes) -> Iterator[bytes]:
    """Cut what a memory BIO gives at record borders: it has forgotten those of datagrams."""
    out, position = b"", 0
    while position + RECORD.size <= len(stream):
        end = position + RECORD.size + RECORD.unpack_from(stream, position)[0]
        record, position = stream[position:end], end
        if out and len(out) + len(record) > MTU:
            yield out
            out = b""
        out += record
    if out:
        yield out


def _peer(connection: SSL.Connection) -> bytes:
    certificate = connection.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    der: bytes = certificate.public_bytes(Encoding.DER)
    return der


def _read(connection: SSL.Connection) -> bytes:
    try:
        waiting: bytes = connection.bio_read(BIO_BYTES)
    except SSL.WantReadError:
        return b""
    return waiting


def _why(error: SSL.Error) -> str:
    stack = error.args[0] if error.args else None
    return str(stack[0][-1]) if isinstance(stack, list) and stack else type(error).__name__
