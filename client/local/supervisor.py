"""The supervisor of the local stack: starts in order, restarts with back-off, drains in reverse.

One supervisor per data directory (a lock). Its children die with it. What it knows stands in
`status.json`, replaced whole at every change: the addresses, whether all is ready, of each
process name, state, pid, restarts and since, and the alarms: a volume that is full stops its
process, until there is room again. When a process is ready, those that wait to be started anew need
wait no longer: they may have ended for want of it.
"""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO

from client.local import doctor, dtls13, launch
from client.local.errors import LocalError
from client.local.layout import HOST, Layout
from client.local.meter import Meter
from client.local.processes import Process, processes
from pki import files
from protocols.exposition import Endpoint, Registry

BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
HEALTHY_SECONDS = 30.0
"""A process that lived this long starts its back-off anew."""
READY_SECONDS = 60.0
POLL_SECONDS = 0.1

ROOM_POLL_SECONDS = 0.5
ROOM_AGAIN = 2
"""A full volume has room again where this many times the least is free."""

STARTING, RUNNING, WAITING, STOPPED = "starting", "running", "waiting", "stopped"
FULL = "full"
"""Stopped, because its volume is full."""


def back_off(failures: int) -> float:
    """Return the seconds before the next start, after so many ends in a row before HEALTHY_SECONDS.

    A process that had been healthy, zero failures, starts anew almost at once.
    """
    return BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]


class Child:
    """One supervised process."""

    def __init__(self, process: Process, log_dir: Path, changed: Callable[[], None]) -> None:
        self.process, self._changed = process, changed
        self._log = log_dir / f"{process.name}.log"
        self.state, self.pid, self.restarts, self.since = STOPPED, 0, 0, time.time()
        self.alarm = ""
        self._ending: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()
        self._stopping, self._hurry = asyncio.Event(), asyncio.Event()
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
            await self._rest(back_off(failures))
        self._enter(STOPPED)

    async def _rest(self, seconds: float) -> None:
        """Wait for the back-off, or for as long as the volume is full."""
        self._enter(FULL if self.alarm else WAITING)
        await self._pause(seconds)
        while self.alarm and not self._stopping.is_set():
            await self._pause(seconds)

    def hurry(self) -> None:
        """Start at once where the process waits to be started anew."""
        if self.state == WAITING:
            self._hurry.set()

    def look_for_room(self) -> int:
        """Stop the process where its volume is full, let it start where there is room; return it.

        Returns the free bytes.
        """
        volume, least = self.process.volume, self.process.room_min
        if volume is None:
            return 0
        free = shutil.disk_usage(volume).free
        full = free < (least * ROOM_AGAIN if self.alarm else least)
        if full == bool(self.alarm):
            return free
        self.alarm = (
            f"{self.process.name} is stopped: its volume {volume} has {free >> 20} MiB free, it "
            f"wants {least * ROOM_AGAIN >> 20}; make room, it starts by itself"
            if full
            else ""
        )
        if full:
            self._ending = asyncio.create_task(self._end())
            if self.state == WAITING:  # it ended by itself before
                self._enter(FULL)
        if not full and self.state == FULL:
            self._enter(WAITING)
            self._hurry.set()
        self._changed()
        return free

    async def stop(self) -> None:
        """Ask the process to end; kill it after its time."""
        self._stopping.set()
        await self._end()

    async def _end(self) -> None:
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
        self._hurry.clear()
        waits = [asyncio.create_task(one.wait()) for one in (self._stopping, self._hurry)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()

    def _enter(self, state: str) -> None:
        self.state, self.since = state, time.time()
        self._changed()


class Supervisor:
    """Starts the stack, keeps it, and drains it."""

    def __init__(self, layout: Layout, on_change: Callable[[Child], None]) -> None:
        self._layout, self._on_change = layout, on_change
        self.children: list[Child] = []
        self._ready = False
        self._registry = Registry()
        self._meter = Meter(self._registry)

    async def run(
        self,
        started: asyncio.Event,
        stopping: asyncio.Event,
        settle: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Run until `stopping`. Raises LocalError where it cannot start.

        The stack is ready when all processes are, and `settle` has ended: what it applies holds.
        """
        doctor.demand([doctor.folder(self._layout)])
        lock = _lock(self._layout)
        try:
            doctor.demand(doctor.before_start(self._layout))
            self._layout.log_dir.mkdir(parents=True, exist_ok=True)
            prepared = await asyncio.to_thread(processes, self._layout)
            port = self._layout.supervisor_port
            endpoint = Endpoint(self._registry, port, HOST)
            tasks = [asyncio.create_task(self._watch_volumes())]
            try:
                for process in prepared:
                    tasks.append(await self._begin(process, stopping))
                    if stopping.is_set():
                        break
                if settle is not None and not stopping.is_set():
                    await _unless(stopping, settle())
                self._ready = not stopping.is_set()
                self._write()
                started.set()
                await stopping.wait()
                self._ready = False
            finally:
                tasks.pop(0).cancel()
                await self._drain(tasks)
                await asyncio.to_thread(endpoint.close)
        finally:
            lock.close()

    async def _watch_volumes(self) -> None:
        """Look at the room on each volume, for ever."""
        while True:
            for child in self.children:
                if child.process.volume is not None:
                    free = child.look_for_room()
                    self._meter.volume(child.process.name, free, bool(child.alarm))
            await asyncio.sleep(ROOM_POLL_SECONDS)

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
        if child.state == RUNNING:
            for one in self.children:
                one.hurry()
        self._meter.process(child.process.name, child.state == RUNNING, child.restarts)
        self._write()
        self._on_change(child)

    def _write(self) -> None:
        status = {
            "pid": os.getpid(),
            "ready": self._ready,
            "bootstrap": self._layout.bootstrap,
            "devices": f"mqtts://localhost:{self._layout.device_port}",
            "coap": dtls13.offered(self._layout.coap_port, self._layout.dtls),
            "est": self._layout.est,
            "processes": [one.describe() for one in self.children],
            "alarms": [one.alarm for one in self.children if one.alarm],
        }
        files.write(self._layout.status_file, json.dumps(status, indent=2).encode())


async def _unless(stopping: asyncio.Event, work: Awaitable[None]) -> None:
    """Wait for the work; not any longer once all is to stop."""
    tasks = [asyncio.ensure_future(one) for one in (work, stopping.wait())]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for one in tasks:
        one.cancel()
    if tasks[0] in done:
        await tasks[0]


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
