"""How long to wait before the next attempt: the same at every replay, another for each device."""

import hashlib


def wait_ms(device_id: str, attempt: int, first_ms: int, most_ms: int) -> int:
    """Return the wait after `attempt`: doubled each time, with a jitter of a half from the id."""
    span = min(most_ms, first_ms << min(attempt - 1, 32))
    digest = hashlib.sha256(f"{device_id}/{attempt}".encode()).digest()
    return span // 2 + int.from_bytes(digest[:8], "big") % (span // 2 + 1)
