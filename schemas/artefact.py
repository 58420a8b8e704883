"""What an update brings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Artefact:
    """What an update brings: opaque to fleetcert; the device checks `sha256` and `signature`.

    `kind` says what it is (`firmware`, `configuration`, …); `size` is bytes.
    """

    kind: str
    name: str
    version: str
    uri: str
    size: int
    sha256: bytes
    signature: bytes
    key_id: str
