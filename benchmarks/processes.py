"""CPU time and memory of a process and all its children, from /proc."""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _text(task).split():
            found += tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its children so far."""
    total = 0
    for one in tree(pid):
        fields = _text(Path(f"/proc/{one}/stat")).rpartition(")")[2].split()
        total += sum(int(value) for value in fields[11:13])
    return total / TICKS


def peak_mib(pid: int) -> float:
    """Return the largest resident memory of a process and its children so far."""
    total = 0
    for one in tree(pid):
        for line in _text(Path(f"/proc/{one}/status")).splitlines():
            if line.startswith("VmHWM"):
                total += int(line.split()[1])
    return total / 1024


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has just ended
