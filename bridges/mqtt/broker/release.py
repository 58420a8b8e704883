"""Which mosquitto is installed, and what its release cannot do."""

import os
import re
import shutil
import subprocess

ANSWER_SECONDS_MAX = 10
KEEPALIVE_SECONDS_MAX = 600
NONE = (0, 0, 0)

Release = tuple[int, int, int]


def program() -> str | None:
    """Return the path of mosquitto; Debian keeps it in /usr/sbin, not on everyone's path."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which("mosquitto", path=path)


def installed() -> Release:
    """Return the release of the mosquitto of this machine; NONE where there is none."""
    mosquitto = program()
    if mosquitto is None:
        return NONE
    done = subprocess.run(
        [mosquitto, "-h"], capture_output=True, text=True, timeout=ANSWER_SECONDS_MAX, check=False
    )
    found = re.search(r"mosquitto version (\d+)\.(\d+)\.(\d+)", done.stdout + done.stderr)
    return (int(found[1]), int(found[2]), int(found[3])) if found else NONE


def keepalive_seconds_max(release: Release, wanted: int = KEEPALIVE_SECONDS_MAX) -> int:
    """Return the longest keep-alive that a broker of this release may be told; 0 for any.

    2.0.21 closes sessions at once whose keep-alive is the maximum, and those that ask for none
    get the maximum (mended in 2.0.22): there, what a device asks for is granted.
    """
    return 0 if release == (2, 0, 21) else wanted
