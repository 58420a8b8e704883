"""Which cipher suites TLS 1.3 negotiates: OpenSSL is told by a file, before it is loaded.

Python's ssl module names the suites of TLS 1.2 only (those of 1.3 from Python 3.15 on); OpenSSL
itself reads them from the file that OPENSSL_CONF names, once, at the start of a process.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "OPENSSL_CONF"


def text(suites: Sequence[str]) -> str:
    """Return the file's text: these suites for every context, the preferred first."""
    return (
        "openssl_conf = fleetcert\n[fleetcert]\nssl_conf = modules\n[modules]\n"
        f"system_default = tls\n[tls]\nCiphersuites = {':'.join(suites)}\n"
    )


def hold(suites: Sequence[str]) -> None:
    """Go on under these suites; where the process began without them, it begins anew, once."""
    wanted = text(suites)
    if _said() == wanted:
        return
    told = os.memfd_create("openssl.cnf", 0)
    os.write(told, wanted.encode())
    os.set_inheritable(told, True)
    os.environ[VARIABLE] = f"/proc/self/fd/{told}"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves


def _said() -> str:
    try:
        return Path(os.environ.get(VARIABLE, "")).read_text()
    except OSError:
        return ""
