"""What nobody here wrote and is in Go: clients on go-coap and on GlobalSign's est.

Go builds them from tests/gocoap and tests/goest; their modules are pinned by go.sum.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

PEERS = Path(__file__).resolve().parents[1]
TOOLS = Path(__file__).resolve().parents[2] / "var" / "tools"
BUILD_SECONDS = 600


def go_coap_peer() -> list[str]:
    """Return the command of a CoAP client (tests/gocoap)."""
    return _peer("gocoap")


def go_est_peer() -> list[str]:
    """Return the command of an EST client (tests/goest)."""
    return _peer("goest")


def _peer(name: str) -> list[str]:
    """Return a client's command; built once, by Go 1.25 or one that fetches it (1.21)."""
    if shutil.which("go") is None:
        raise AssertionError("there is no Go: install Go 1.21 or newer (Debian: golang-go)")
    source = PEERS / name
    parts = [source / part for part in ("main.go", "go.mod", "go.sum")]
    digest = hashlib.sha256(b"".join(one.read_bytes() for one in parts)).hexdigest()
    built = TOOLS / f"{name}-{digest[:16]}"
    if not built.exists():
        TOOLS.mkdir(parents=True, exist_ok=True)
        fresh = built.with_name(f"{name}-{os.getpid()}")
        command = ["go", "build", "-trimpath", "-mod=readonly", "-o", str(fresh), "."]
        subprocess.run(command, cwd=source, check=True, timeout=BUILD_SECONDS)
        fresh.rename(built)
    return [str(built)]
