"""The extension in an image: built there by one file, or the build ends and says why."""

import shutil
import subprocess
import sys
from pathlib import Path

from client.local import dtls13


def test_an_image_without_rust_is_not_built_unawares(tmp_path: Path) -> None:
    """The file stands alone, as deploy/Dockerfile copies it; it tells of the way without."""
    alone = tmp_path / "client" / "local" / "dtls13.py"
    alone.parent.mkdir(parents=True)
    shutil.copy(dtls13.__file__, alone)
    command = [sys.executable, "-I", "-S", str(alone)]  # without site-packages: nothing is built
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=30, env={"PATH": ""}
    )
    assert done.returncode == 1
    assert done.stderr == f"{dtls13.ABSENT}\n{dtls13.WITHOUT}\n"
