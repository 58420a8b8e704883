"""The supervisor of the local stack: starts in order, restarts with back-off, drains in reverse.

One supervisor per data directory (a lock). Its children die with it. What it knows stands in
`status.json`, replaced whole at every change: the addresses, whether all have started, and of each
process name, state, pid, restarts and since.
"""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from client.local import launch
from client.local.errors import LocalError
from client.local.layout import Layout
from client.local.processes import Process, listens, processes
from pki import files

BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
HEALTHY_SECONDS = 30.0
"""A process that lived this long starts its back-off anew."""
READY_SECONDS = 60.0
POLL_SECONDS = 0.1
DISK_FREE_MIN = 1 << 30

STARTING, RUNNING, WAITING, STOPPED = "starting", "running", "waiting", "stopped"


class Child:
    """One supervised process."""

    def __init__(self, process: Process, log_dir: Path, changed: Callable[[], None]) -> None:
        self.process, self._changed = process, changed
        self._log = log_dir / f"{process.name}.log"
        self.state, self.pid, self.restarts, self.since = STOPPED, 0, 0, time.time()
        self.ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._running: asyncio.subprocess.Process | None = None

    def describe(self) -> dict[str, object]:
        """Return what the status file says of it."""
        return {
            "name": self.process.name,
            "state": self.state,
            "pid": self.pid,
            "restarts": self.restarts,
            "since": self.since,
        }

    async def keep(self) -> None:
        """Keep the process running until `stop`."""
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            self._running = await self._start()
            await self._lived(self._running)
            failures = 0 if time.monotonic() - began > HEALTHY_SECONDS else failures + 1
            if self._stopping.is_set():
                break
            self.restarts += 1
            self._enter(WAITING)
            await self._pause(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1])
        self._enter(STOPPED)

    async def stop(self) -> None:
        """Ask the process to end; kill it after its time."""
        self._stopping.set()
        running = self._running
        if running is None or running.returncode is not None:
            return
        running.terminate()
        try:
            await asyncio.wait_for(running.wait(), self.process.stop_seconds)
        except TimeoutError:
            running.kill()
            await running.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        with self._log.open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                launch.__file__,
                str(os.getpid()),
                *self.process.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.process.env},
                start_new_session=True,
            )
        self.pid = child.pid
        self._enter(STARTING)
        return child

    async def _lived(self, child: asyncio.subprocess.Process) -> None:
        watching = asyncio.create_task(self._watch())
        await child.wait()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        self.pid = 0

    async def _watch(self) -> None:
        """Wait until the process is ready, then do what follows its start."""
        while not await asyncio.to_thread(self.process.ready):  # noqa: ASYNC110 - a probe
            await asyncio.sleep(POLL_SECONDS)
        if not self.ready.is_set():
            await asyncio.to_thread(self.process.started)
        self._enter(RUNNING)
        self.ready.set()

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def _enter(self, state: str) -> None:
        self.state, self.since = state, time.time()
        self._changed()


class Supervisor:
    """Starts the stack, keeps it, and drains it."""

    def __init__(self, layout: Layout, on_change: Callable[[Child], None]) -> None:
        self._layout, self._on_change = layout, on_change
        self.children: list[Child] = []
        self._ready = False

    async def run(self, started: asyncio.Event, stopping: asyncio.Event) -> None:
        """Run until `stopping`. Raises LocalError where it cannot start."""
        lock = _lock(self._layout)
        try:
            _check(self._layout)
            self._layout.log_dir.mkdir(parents=True, exist_ok=True)
            prepared = await asyncio.to_thread(processes, self._layout)
            tasks = []
            try:
                for process in prepared:
                    tasks.append(await self._begin(process, stopping))
                    if stopping.is_set():
                        break
                self._ready = not stopping.is_set()
                self._write()
                started.set()
                await stopping.wait()
                self._ready = False
            finally:
                await self._drain(tasks)
        finally:
            lock.close()

    async def _begin(self, process: Process, stopping: asyncio.Event) -> asyncio.Task[None]:
        child = Child(process, self._layout.log_dir, lambda: self._changed(child))
        self.children.append(child)
        task = asyncio.create_task(child.keep())
        waits = [asyncio.create_task(one.wait()) for one in (child.ready, stopping)]
        done, _ = await asyncio.wait(
            waits, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        for one in waits:
            one.cancel()
        if not done:
            log = self._layout.log_dir / f"{process.name}.log"
            await self._drain([task])
            raise LocalError(f"{process.name} is not ready after {READY_SECONDS:.0f} s: see {log}")
        return task

    async def _drain(self, tasks: list[asyncio.Task[None]]) -> None:
        for child in reversed(self.children):
            await child.stop()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, child: Child) -> None:
        self._write()
        self._on_change(child)

    def _write(self) -> None:
        status = {
            "pid": os.getpid(),
            "ready": self._ready,
            "bootstrap": self._layout.bootstrap,
            "devices": f"mqtts://localhost:{self._layout.device_port}",
            "processes": [one.describe() for one in self.children],
        }
        files.write(self._layout.status_file, json.dumps(status, indent=2).encode())


def status(layout: Layout) -> dict[str, object]:
    """Return what the supervisor last said; empty where none runs."""
    try:
        found: dict[str, object] = json.loads(layout.status_file.read_text())
        os.kill(int(str(found["pid"])), 0)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return {}
    return found


def stop(layout: Layout, within: float = 90.0) -> bool:
    """Ask the supervisor to drain and wait for it; False where none runs."""
    pid = int(str(status(layout).get("pid", 0)))
    if not pid:
        return False
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not status(layout):
            return True
        time.sleep(POLL_SECONDS)
    raise LocalError(f"the supervisor (pid {pid}) did not end within {within:.0f} s")


def _lock(layout: Layout) -> IO[str]:
    layout.data_dir.mkdir(parents=True, exist_ok=True)
    lock = layout.lock_file.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise LocalError(
            f"a stack runs already on {layout.data_dir}: stop it with `fleetcert down`, or choose "
            "another --data-dir"
        ) from error
    return lock


def _check(layout: Layout) -> None:
    free = shutil.disk_usage(layout.data_dir).free
    if free < DISK_FREE_MIN:
        raise LocalError(
            f"{layout.data_dir} has {free >> 20} MiB free, the stack wants {DISK_FREE_MIN >> 20}: "
            "make room, or choose another --data-dir"
        )
    for name, (port, option) in layout.ports().items():
        if listens(port):
            raise LocalError(f"port {port} ({name}) is taken: stop its owner, or choose {option}")
