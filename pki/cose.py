"""COSE_Sign1 (RFC 9052 section 4.2) with an x5chain (RFC 9360), and nothing more of COSE.

Rules of this file: only the algorithms of `ALGORITHMS`, each bound to its key type; definite
lengths, no tags inside, no duplicate labels, no bytes after the end; garbage raises Malformed.
"""

import io
from dataclasses import dataclass
from typing import Any

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from protocols.cbor import TAGS

MESSAGE_BYTES_MAX = 32_768
"""The largest message read, in bytes."""
DEPTH_MAX = 2
"""How deep its CBOR may be nested: a map of arrays. No key of an inner map can be an array."""
LONG_MAPS = bytes(range(0xB8, 0xBC))
"""What a map of more than 23 labels begins with. Its keys could collide, at quadratic cost."""
CHAIN_MAX = 4
"""How many certificates an x5chain may hold."""

TAG = 18
"""COSE_Sign1_Tagged, RFC 9052 section 4.2."""
ALG, X5CHAIN = 1, 33
"""Header labels: RFC 9052 section 3.1, RFC 9360 section 2."""
ES256, ES384, EDDSA, PS256 = -7, -35, -8, -37
"""RFC 9053 section 2, RFC 8230 section 2."""

ALGORITHMS = {ES256: "ES256", ES384: "ES384", EDDSA: "EdDSA", PS256: "PS256"}

_CURVES: dict[int, tuple[str, int, hashes.HashAlgorithm]] = {
    ES256: ("secp256r1", 32, hashes.SHA256()),
    ES384: ("secp384r1", 48, hashes.SHA384()),
}
_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
_TAGS_REFUSED = (*range(6), 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799)


class Malformed(ValueError):
    """The bytes are no COSE_Sign1 of ours. The message says why."""


@dataclass(frozen=True, slots=True)
class Sign1:
    """One parsed message: `protected` and `payload` are the signed bytes, `chain` leaf first."""

    algorithm: int
    chain: tuple[bytes, ...]
    protected: bytes
    payload: bytes
    signature: bytes


def sign(payload: bytes, leaf: bytes, key: PrivateKeyTypes) -> bytes:
    """Return the tagged COSE_Sign1 over the payload; `leaf` is the key's DER certificate.

    Raises ValueError for a key that no algorithm of ours fits.
    """
    algorithm = algorithm_of(key.public_key())
    if algorithm is None:
        raise ValueError("the key must be P-256, P-384, Ed25519 or RSA")
    protected: bytes = cbor2.dumps({ALG: algorithm, X5CHAIN: leaf}, canonical=True)
    signature = _sign(algorithm, key, _to_be_signed(protected, payload))
    message: bytes = cbor2.dumps(cbor2.CBORTag(TAG, [protected, {}, payload, signature]))
    return message


def parse(message: bytes) -> Sign1:
    """Return the parts of a message. Raises Malformed, and nothing else."""
    parts = decode(message, tag=TAG)
    if not isinstance(parts, list | tuple) or len(parts) != 4:
        raise Malformed("not an array of four")
    protected, unprotected, payload, signature = parts
    for part in (protected, payload, signature):
        if not isinstance(part, bytes):
            raise Malformed("a protected header, payload or signature that is no byte string")
    if not is_map(unprotected) or len(unprotected) != 0:
        raise Malformed("unprotected headers: put alg and x5chain into the protected ones")
    headers = decode(protected)
    if not is_map(headers) or set(headers) != {ALG, X5CHAIN}:
        raise Malformed("the protected headers must be alg (1) and x5chain (33)")
    algorithm = headers[ALG]
    if type(algorithm) is not int or algorithm not in ALGORITHMS:
        raise Malformed(f"the algorithm must be one of {', '.join(ALGORITHMS.values())}")
    return Sign1(algorithm, _chain(headers[X5CHAIN]), protected, payload, signature)


def verify(message: Sign1, key: PublicKeyTypes) -> bool:
    """Tell whether the signature verifies under the key, with the algorithm that fits the key."""
    if algorithm_of(key) != message.algorithm:
        return False
    signed = _to_be_signed(message.protected, message.payload)
    try:
        _verify(message, key, signed)
    except InvalidSignature:
        return False
    return True


def algorithm_of(key: PublicKeyTypes) -> int | None:
    """Return the one algorithm that fits the key, None where there is none."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return next((alg for alg, (curve, *_) in _CURVES.items() if curve == key.curve.name), None)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return EDDSA
    return PS256 if isinstance(key, rsa.RSAPublicKey) else None


def decode(data: bytes, tag: int | None = None) -> Any:
    """Return what the CBOR (RFC 8949) says, below `tag` where one is asked for.

    Raises Malformed for everything but plain data of definite length and shallow depth.
    """
    if len(data) > MESSAGE_BYTES_MAX:
        raise Malformed(f"{len(data)} bytes, the limit is {MESSAGE_BYTES_MAX}")
    if tag is not None:
        if not data.startswith(bytes([0xC0 | tag])):
            raise Malformed(f"does not begin with tag {tag}")
        data = data[1:]
    if data[:1] and data[0] in LONG_MAPS:
        raise Malformed("a map of more than 23 labels")
    stream = io.BytesIO(data)
    try:
        value = cbor2.load(
            stream,
            tag_hook=_refuse_tag,
            semantic_decoders=dict.fromkeys(TAGS, _refuse_tag),
            max_depth=DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            read_size=1,
        )
    except Exception as error:  # the decoder raises many kinds on garbage; all mean the same
        raise Malformed(f"not CBOR of ours: {type(error).__name__}: {error}"[:200]) from error
    if stream.tell() != len(data):
        raise Malformed(f"{len(data) - stream.tell()} bytes after the end")
    return value


def is_map(value: object) -> bool:
    """Tell whether a decoded value is a map."""
    return isinstance(value, dict | cbor2.frozendict)


def _refuse_tag(*_: object, **__: object) -> Any:
    raise Malformed("a tag where none belongs")


def _chain(value: object) -> tuple[bytes, ...]:
    """Return an x5chain: one byte string, or an array of them (RFC 9360 section 2)."""
    chain = (value,) if isinstance(value, bytes) else value
    if not isinstance(chain, list | tuple) or not 1 <= len(chain) <= CHAIN_MAX:
        raise Malformed(f"an x5chain that is not 1 to {CHAIN_MAX} certificates")
    if not all(isinstance(one, bytes) for one in chain):
        raise Malformed("an x5chain that holds something else than byte strings")
    return tuple(chain)


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """Return the Sig_structure (RFC 9052 section 4.4), without external data."""
    structure: bytes = cbor2.dumps(["Signature1", protected, b"", payload])
    return structure


def _sign(algorithm: int, key: PrivateKeyTypes, signed: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        _, size, digest = _CURVES[algorithm]
        signature = key.sign(signed, ec.ECDSA(digest, deterministic_signing=True))
        r, s = decode_dss_signature(signature)
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(signed, _PSS, hashes.SHA256())
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    return key.sign(signed)


def _verify(message: Sign1, key: PublicKeyTypes, signed: bytes) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        _, size, digest = _CURVES[message.algorithm]
        if len(message.signature) != 2 * size:  # RFC 9053 section 2.1: fixed length
            raise InvalidSignature
        r = int.from_bytes(message.signature[:size], "big")
        s = int.from_bytes(message.signature[size:], "big")
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(message.signature, signed, _PSS, hashes.SHA256())
    else:
        assert isinstance(key, ed25519.Ed25519PublicKey)
        key.verify(message.signature, signed)
