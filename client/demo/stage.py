"""Where the demo plays: a stack of its own on free ports, in a folder that is cleared before."""

import shutil
from pathlib import Path

from client.local import supervisor
from client.local.errors import LocalError
from client.local.layout import Layout
from client.local.ports import on_free_ports


def prepare(directory: Path, tools_dir: Path) -> Layout:
    """Clear what a former demo left in `directory`; return a stack on ports that are free.

    Only the demo's own files are removed. Raises LocalError where a demo still runs there.
    """
    data_dir = directory / "stack"
    if supervisor.status(Layout(data_dir=data_dir)):
        raise LocalError(
            f"a demo runs already in {directory}: wait for its end, stop it by Ctrl-C, or choose "
            "another --directory"
        )
    for one in (data_dir, directory / "devices"):
        shutil.rmtree(one, ignore_errors=True)
    for name in ("report.json", "devices.log"):
        (directory / name).unlink(missing_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    return on_free_ports(Layout(data_dir=data_dir, tools_dir=tools_dir))
