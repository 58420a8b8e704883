"""What builds the broker's plugin runs where there is Python and a compiler, and nothing else."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_plugin_s_build_imports_the_standard_library_alone() -> None:
    """So the broker's image needs no package of ours (deploy/broker/Dockerfile)."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import bridges.mqtt.broker.build"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
