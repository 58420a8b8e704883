"""Many devices in one process, each with its own directory, key and TLS connection.

Rules of this file: a simulated device is a real agent; what it kept and what was recorded goes
into one ledger, so that a run proves its losses (none). A device that dies (device/faults.py) is
started again in its directory, as a new boot.
"""

import asyncio
import contextlib
import json
import logging
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from device import provision
from device.coap.dtls import has_dtls
from device.coap.link import COAPS, COAPS_TCP
from device.faults import Died
from device.link import MQTTS
from device.misbehaviour import BEHAVIOURS, SimulatedAgent
from device.observer import KEPT, RECORDED, SENT, Ledger, LedgerObserver
from device.outbox import Durability
from device.provision import DeviceCa
from device.settings import Settings

DEVICES_MAX = 5_000
FILES_PER_DEVICE = 8
"""A connection, the outbox in WAL mode, and what is open for a moment."""
FILES_BESIDE = 256
STARTS_PER_SECOND = 100
METRICS_SECONDS = 1.0
DRAIN_SECONDS = 15.0
"""Without progress for so long, the rest stays kept."""
DRAIN_POLL_SECONDS = 0.02

_log = logging.getLogger("fleetcert.device.simulator")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to simulate: `rate` is events per second and device, `shares` behaviour to share.

    `seconds` 0 means until stopped. With a `ca`, devices without identity get one from it. At the
    end, what is kept has `drain_seconds` without progress to be recorded. With `coap_every` N each
    N-th device speaks CoAP to `coap_port`: coaps+tcp and coaps in turn, where DTLS 1.3 is there.
    """

    directory: Path
    host: str
    port: int
    ca_file: Path
    count: int
    rate: float = 1.0
    seconds: float = 0.0
    prefix: str = "sim"
    shares: Mapping[str, float] = field(default_factory=dict)
    ca: DeviceCa | None = None
    valid_seconds: int = 90 * 86_400
    drain_seconds: float = DRAIN_SECONDS
    coap_every: int = 0
    coap_port: int = 5684


def device_ids(plan: Plan) -> list[str]:
    """Return the ids of the devices of a plan: prefix-00001 and so on."""
    return [f"{plan.prefix}-{number:05d}" for number in range(1, plan.count + 1)]


def behaviours(plan: Plan) -> dict[str, str]:
    """Return each device's behaviour: the shares in order, counted from the first device.

    Raises ValueError for an unknown behaviour or shares above 1 in all.
    """
    unknown = set(plan.shares) - set(BEHAVIOURS)
    if unknown or sum(plan.shares.values()) > 1 + 1e-9:
        raise ValueError(f"shares sum to at most 1, of {', '.join(BEHAVIOURS)}; not {unknown}")
    names: list[str] = []
    for name, share in plan.shares.items():
        names += [name] * round(share * plan.count)
    names += ["honest"] * plan.count
    return dict(zip(device_ids(plan), names, strict=False))


def scheme(plan: Plan, number: int) -> str:
    """Return how the device of this number, counted from 1, reaches its door."""
    if not plan.coap_every or number % plan.coap_every:
        return MQTTS
    return COAPS if number // plan.coap_every % 2 == 0 and has_dtls() else COAPS_TCP


class Simulator:
    """Runs a plan; `ledger.counts` tells how far it is."""

    def __init__(self, plan: Plan) -> None:
        """Check the plan's limits and give each device its identity."""
        if not 0 < plan.count <= DEVICES_MAX:
            raise ValueError(f"{plan.count} devices; 1 to {DEVICES_MAX} go into one process")
        self.plan = plan
        self.behaviours = behaviours(plan)
        self.agents: dict[str, SimulatedAgent] = {}
        self._stopping = asyncio.Event()
        _allow_files(plan.count)
        plan.directory.mkdir(parents=True, exist_ok=True)
        if plan.ca is not None:
            for device_id in self.behaviours:
                folder = plan.directory / device_id
                provision.provision(plan.ca, device_id, folder, plan.valid_seconds)
        self.ledger = Ledger(plan.directory / "ledger.jsonl")

    def stop(self) -> None:
        """End the run: no new events, what is kept gets its time to be recorded."""
        self._stopping.set()

    async def run(self) -> None:
        """Run all devices until the plan's time is over, or `stop`."""
        metrics = asyncio.create_task(self._metrics())
        try:
            async with asyncio.TaskGroup() as group:
                for device_id in self.behaviours:
                    group.create_task(self._live(device_id))
                    await asyncio.sleep(1 / STARTS_PER_SECOND)
                await self._wait(self.plan.seconds or None)
                self.stop()
                await self._drain()
                for agent in self.agents.values():
                    agent.stop()
        finally:
            metrics.cancel()
            _log.info("%s", json.dumps(dict(self.ledger.counts)))
            self.ledger.close()

    async def _live(self, device_id: str) -> None:
        while True:
            agent = self._agent(device_id)
            talk = asyncio.create_task(self._talk(agent))
            try:
                await agent.run()
                return
            except Died as died:
                self.ledger.counts["died"] += 1
                _log.info("device died and starts again device=%s at=%s", device_id, died)
            finally:
                talk.cancel()
                await asyncio.gather(talk, return_exceptions=True)

    def _agent(self, device_id: str) -> SimulatedAgent:
        plan = self.plan
        how = scheme(plan, list(self.behaviours).index(device_id) + 1)
        agent = BEHAVIOURS[self.behaviours[device_id]](
            device_id,
            plan.directory / device_id,
            plan.host,
            plan.port if how == MQTTS else plan.coap_port,
            plan.ca_file,
            settings=Settings(durability=Durability.PROCESS),
            observer=LedgerObserver(self.ledger, device_id),
            scheme=how,
        )
        self.agents[device_id] = agent
        return agent

    async def _talk(self, agent: SimulatedAgent) -> None:
        due = time.monotonic()
        while not self._stopping.is_set() and not agent.stopping:
            await agent.room()
            await agent.report(*agent.reading())
            due += 1 / self.plan.rate
            await self._wait(max(0.0, due - time.monotonic()))

    def left(self) -> int:
        """Return how many items the devices still keep."""
        return sum(len(agent.outbox) for agent in self.agents.values())

    async def _drain(self) -> None:
        """Wait for what is kept to be recorded, for as long as there is progress.

        Progress means fewer items than ever: a device that flaps keeps and records a new one with
        each session. Devices that stopped keep theirs for later.
        """
        least, since = sys.maxsize, time.monotonic()
        while left := sum(len(one.outbox) for one in self.agents.values() if not one.stopping):
            if left < least:
                least, since = left, time.monotonic()
            if time.monotonic() - since > self.plan.drain_seconds:
                return
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    async def _metrics(self) -> None:
        last, at = 0, time.monotonic()
        while True:
            await asyncio.sleep(METRICS_SECONDS)
            counts, now = self.ledger.counts, time.monotonic()
            open_sessions = counts["connected"] - counts["disconnected"]
            speed = (counts[RECORDED] - last) / (now - at)
            last, at = counts[RECORDED], now
            line = {"sessions": open_sessions, "recorded_per_second": round(speed)}
            line |= {what: counts[what] for what in (KEPT, SENT, RECORDED)}
            _log.info("%s", json.dumps(line))

    async def _wait(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _allow_files(devices: int) -> None:
    """Raise this process's own limit of open files as far as the devices want it.

    Raises ValueError, which says what to do, where the machine does not allow so many.
    """
    wanted = devices * FILES_PER_DEVICE + FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ValueError(
            f"{devices} devices want {wanted} open files and this machine allows {hard}: run at "
            f"most {max(0, (hard - FILES_BESIDE) // FILES_PER_DEVICE)} devices, or raise it "
            f"(`ulimit -Hn {wanted}` as root, LimitNOFILE= in systemd)"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
