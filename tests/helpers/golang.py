"""A CoAP client on go-coap, built by Go from tests/gocoap; its modules are pinned by go.sum."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "gocoap"
TOOLS = Path(__file__).resolve().parents[2] / "var" / "tools"
BUILD_SECONDS = 600


def go_coap_peer() -> list[str]:
    """Return the client's command; built once, by Go 1.25 or one that fetches it (1.21)."""
    if shutil.which("go") is None:
        raise AssertionError("there is no Go: install Go 1.21 or newer (Debian: golang-go)")
    parts = [SOURCE / name for name in ("main.go", "go.mod", "go.sum")]
    digest = hashlib.sha256(b"".join(one.read_bytes() for one in parts)).hexdigest()
    built = TOOLS / f"gocoap-{digest[:16]}"
    if not built.exists():
        TOOLS.mkdir(parents=True, exist_ok=True)
        fresh = built.with_name(f"gocoap-{os.getpid()}")
        command = ["go", "build", "-trimpath", "-mod=readonly", "-o", str(fresh), "."]
        subprocess.run(command, cwd=SOURCE, check=True, timeout=BUILD_SECONDS)
        fresh.rename(built)
    return [str(built)]
