"""Compiles the identity plugin of the broker with the system's C compiler.

The library is named after the hash of its sources and flags, so an unchanged plugin is built
once and a running broker never sees its file change. An image is built where only Python itself
is: nothing but the standard library is imported here.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bridges.mqtt.broker import release

PACKAGES = "mosquitto mosquitto-dev libmosquitto-dev libssl-dev libcjson-dev uthash-dev gcc"
"""The Debian packages that a build needs."""

HEADERS = (
    "mosquitto_plugin.h",
    "mosquitto.h",
    "openssl/evp.h",
    "cjson/cJSON.h",
    "uthash.h",
)
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")
HARDENING = ("-O2", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-Wl,-z,relro,-z,now")
SANITIZING = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined")
LIBRARIES = ("-lcrypto", "-lcjson", "-lmosquitto")
"""libmosquitto: the broker of Debian 13 exports what writes properties, not what reads them."""
BUILD_SECONDS_MAX = 120


class BuildError(Exception):
    """The plugin could not be built; the message says what to do."""


def sources() -> list[Path]:
    """Give the C files of the plugin, headers included, in a fixed order."""
    here = Path(__file__).parent
    return sorted([*here.glob("*.c"), *here.glob("*.h")])


def library(target_dir: Path, sanitize: bool = False) -> Path:
    """Return where the plugin of these sources and flags is, once it is built."""
    digest = hashlib.sha256("\0".join([*_flags(sanitize), *LIBRARIES]).encode())
    for source in sources():
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return target_dir.resolve() / f"fleetcert_identity-{digest.hexdigest()[:16]}.so"


def build(target_dir: Path, sanitize: bool = False) -> Path:
    """Compile the plugin into `target_dir`, unless it is there already; give its path.

    With `sanitize`, the address and undefined-behaviour sanitizers are in it: the broker then
    needs `libasan` preloaded. Raises BuildError.
    """
    target = library(target_dir, sanitize)
    if target.exists():
        return target
    compiler = _compiler()
    target_dir.mkdir(parents=True, exist_ok=True)
    files = [str(source) for source in sources() if source.suffix == ".c"]
    with tempfile.TemporaryDirectory(dir=target_dir) as scratch:
        output = Path(scratch) / target.name
        _run([compiler, *_flags(sanitize), *files, "-o", str(output), *LIBRARIES])
        os.replace(output, target)
    return target


def _flags(sanitize: bool) -> list[str]:
    return [*FLAGS, *(SANITIZING if sanitize else HARDENING)]


def _compiler() -> str:
    """Find gcc and see that every header is there."""
    compiler = shutil.which("gcc")
    if compiler is None or release.program() is None:
        raise BuildError(f"gcc or mosquitto is missing: apt-get install {PACKAGES}")
    includes = "".join(f"#include <{header}>\n" for header in HEADERS)
    try:
        _run([compiler, "-E", "-x", "c", "-o", os.devnull, "-"], includes)
    except BuildError as error:
        message = f"a C header is missing: apt-get install {PACKAGES}\n{error}"
        raise BuildError(message) from error
    return compiler


def _run(command: list[str], text: str = "") -> None:
    """Run a compiler; its complaints become the error's message."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS_MAX
    )
    if done.returncode != 0:
        raise BuildError(f"{command[0]} failed:\n{done.stderr.strip()}")
