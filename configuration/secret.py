"""A password: in a file that others may not read, or in a variable; nowhere else."""

import os
import stat
from pathlib import Path

from configuration.source import unusable

FORBIDDEN_MODE = 0o027
"""The group may read, as orchestrators mount secrets; all others, and a group that writes, not."""


def of_file(file: Path, where: str) -> str:
    """Return what the file holds, without the end of its line. Raises InvalidConfiguration.

    `where` is what named the file.
    """
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        text = file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise unusable(where, f"{file}: {why}") from None
    if mode & FORBIDDEN_MODE:
        raise unusable(where, f"{file} has mode {mode:04o}: others reach it; chmod 600 {file}")
    if not text:
        raise unusable(where, f"{file} is empty: it is to hold the password")
    return text


def read(file: Path | None, where: str, variable: str) -> str:
    """Return the variable's password, else the file's. Raises InvalidConfiguration."""
    if given := os.environ.get(variable):
        return given
    if file is None:
        raise unusable(where, f"names no file, and {variable} is not set: one has the password")
    return of_file(file, where)
