"""Builds and installs the DTLS 1.3 extension (native/dtls13), once per version of its sources.

The wheel is kept by the hash of the sources in `var/tools/wheels`. Without a Rust toolchain
nothing is built and the stack says what is then not offered: never silently. An image is not built
then unless it was asked for without (deploy/Dockerfile runs this file by itself).
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "native" / "dtls13"
TARGET = SOURCES.parents[1] / "build" / "cargo"
RUST_MIN = (1, 89)
BUILD_SECONDS_MAX = 1_800
COMMAND_SECONDS = 60
ABSENT = (
    "DTLS 1.3 is not built: no Rust 1.89 or newer (https://rustup.rs) is there. CoAP is offered "
    "over coaps+tcp only; run `make setup` again after installing Rust."
)
WITHOUT = (
    "For images whose CoAP is offered over coaps+tcp only: FLEETCERT_DTLS13=no docker compose build"
)


class BuildFailed(Exception):
    """The compiler refused; the text is what it said last."""


def installed() -> bool:
    """Tell whether this Python has the extension."""
    return importlib.util.find_spec("fleetcert_dtls13") is not None


def offered(port: int, dtls: tuple[str, ...]) -> str:
    """Return in one line what the CoAP bridge of this machine offers."""
    versions = [one for one in dtls if one != "1.3" or installed()]
    said = [f"coaps+tcp://localhost:{port} (TLS 1.3)"]
    said += [f"coaps://localhost:{port} (DTLS {', '.join(versions)})"] if versions else []
    if "1.3" in dtls and not installed():
        said.append("no DTLS 1.3: `make setup` with Rust 1.89 or newer builds it")
    return ", ".join(said)


def install(tools_dir: Path) -> str:
    """Install the extension and return "", or the sentence that says why there is none.

    Raises BuildFailed where the toolchain is there and the build fails.
    """
    folder = tools_dir / "wheels" / digest()
    stamp = Path(sys.prefix) / ".dtls13"
    if installed() and stamp.exists() and stamp.read_text() == folder.name:
        return ""
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        if rust_version() < RUST_MIN:
            return ABSENT
        wheels = [_build(folder)]
    _run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", *wheels])
    stamp.write_text(folder.name)
    return ""


def main() -> int:
    """Build and install for an image; return the exit status."""
    try:
        missing = install(SOURCES.parents[1] / "var" / "tools")
    except BuildFailed as error:
        missing = str(error)
    if missing:
        print(f"{missing}\n{WITHOUT}", file=sys.stderr)
    return 1 if missing else 0


def digest() -> str:
    """Return the name of this version: the sources, and the machine that they are built for."""
    found = hashlib.sha256(os.uname().machine.encode())
    for path in sorted((*SOURCES.glob("src/*.rs"), *SOURCES.glob("*.[ltp]*"))):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def rust_version() -> tuple[int, ...]:
    """Return the version of the Rust toolchain, (0,) where there is none."""
    if shutil.which("cargo") is None or shutil.which("rustc") is None:
        return (0,)
    done = subprocess.run(
        ["rustc", "--version"], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    found = re.match(r"rustc (\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0,)


def _build(folder: Path) -> Path:
    """Build the wheel; it appears in its folder only when it is whole."""
    fresh = folder.with_name(f"{folder.name}-{os.getpid()}")
    maturin = [sys.executable, "-m", "maturin", "build", "--release", "--locked", "--quiet"]
    _run([*maturin, "--out", fresh.resolve()], cwd=SOURCES)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return next(folder.glob("*.whl"))


def _run(command: list[str | Path], cwd: Path | None = None) -> None:
    done = subprocess.run(
        [str(one) for one in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS_MAX,
        check=False,
        env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)},
    )
    if done.returncode != 0:
        raise BuildFailed(f"{command[0]} {command[2]}: {(done.stderr or done.stdout)[-2_000:]}")


if __name__ == "__main__":
    sys.exit(main())
