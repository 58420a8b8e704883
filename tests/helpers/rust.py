"""A CoAP client on BoringSSL, built by Rust from tests/boringssl; Cargo.lock pins its crates.

BoringSSL is C++ and its bindings are made by libclang: both are built once, in two minutes.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from client.local import dtls13

SOURCE = Path(__file__).resolve().parents[1] / "boringssl"
TOOLS = Path(__file__).resolve().parents[2] / "var" / "tools"
BUILD_SECONDS = 1_800
WANTED = (
    "Rust 1.89 or newer (https://rustup.rs), cmake, C++, libclang (Debian: cmake g++ libclang-dev)"
)


def boringssl_peer() -> list[str]:
    """Return the client's command; built once per version of its sources."""
    if dtls13.rust_version() < dtls13.RUST_MIN or shutil.which("cmake") is None:
        raise AssertionError(f"the BoringSSL peer cannot be built; install {WANTED}")
    parts = [SOURCE / name for name in ("src/main.rs", "Cargo.toml", "Cargo.lock")]
    digest = hashlib.sha256(b"".join(one.read_bytes() for one in parts)).hexdigest()
    built = TOOLS / f"boringssl-{digest[:16]}"
    if not built.exists():
        TOOLS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
            _build(Path(folder)).rename(built)
    return [str(built)]


def _build(folder: Path) -> Path:
    """Build it in a folder, which takes some 700 MB for the while; return the program."""
    done = subprocess.run(
        ["cargo", "build", "--release", "--locked", "--quiet"],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
        env={**os.environ, "CARGO_TARGET_DIR": str(folder)},
    )
    if done.returncode != 0:
        said = done.stderr[-2_000:]
        raise AssertionError(f"the BoringSSL peer was not built; it wants {WANTED}:\n{said}")
    return folder / "release" / "boringssl-peer"
