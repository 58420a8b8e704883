"""Runs a program that dies with its parent: `launch.py PARENT_PID PROGRAM ARGUMENT…`.

A script of its own, run before the program: the same call between fork and exec of a process with
threads (librdkafka has them) may deadlock. prctl(2): the signal is sent when the *thread* that
forked ends, and the setting is lost when the program changes its user.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Bind this process's life to its parent's, then become the program."""
    parent, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit("launch: prctl refused")
    if os.getppid() != int(parent):  # the parent died before prctl was asked
        sys.exit("launch: the parent is gone")
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming the program is the point
    except OSError as error:
        sys.exit(f"launch: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
