"""Faults at random, and how long the stack takes to be whole again after each."""

import asyncio
import contextlib
import os
import random
import signal
import statistics
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.topics import DEVICE_STATE
from streams.engine.log import bounds_of
from tests.helpers.stack import RunningStack
from tests.helpers.wait import lasting, until_async

SEED_VARIABLE = "FLEETCERT_SEED"
STOP_SHARE = 0.35
ANSWER_SECONDS = 2.0
STOP_SECONDS = (1.0, 9.0)
"""Shorter and longer than the session time-outs."""
HEARD = 5


def seed() -> int:
    """Return the seed of this run: that of the environment, else a new one."""
    given = os.environ.get(SEED_VARIABLE)
    return int(given) if given else random.SystemRandom().randrange(1_000_000)


@dataclass(frozen=True)
class Fault:
    """Killed with -9 where `seconds` is zero, else stopped for so long and woken."""

    name: str
    seconds: float

    def __str__(self) -> str:
        """Name it for a message."""
        return f"{self.name} stopped for {self.seconds:.1f} s" if self.seconds else (
            f"{self.name} killed"
        )  # fmt: skip


@dataclass
class Probe:
    """Looks whether each part of the stack works: by its effects, not by its process."""

    stack: RunningStack
    recorded: Callable[[], int]
    _consumer: Consumer = field(init=False)

    def __post_init__(self) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": self.stack.layout.bootstrap,
                "group.id": "unused",
                "log_level": 0,
                "reconnect.backoff.max.ms": 500,
            }
        )

    def rows(self) -> list[int]:
        """Return where the changelog's partitions end: ticks move all. Empty without Kafka."""
        where = [TopicPartition(DEVICE_STATE, one) for one in range(self.stack.layout.partitions)]
        try:
            return [bounds_of(self._consumer, one, ANSWER_SECONDS).high for one in where]
        except KafkaException:
            return []

    def issuer_active(self) -> bool:
        """Tell whether the issuer holds its partition."""
        url = f"http://127.0.0.1:{self.stack.layout.metrics_port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=2.0) as answer:
                return b"\nissuer_active 1.0" in answer.read()
        except OSError:
            return False

    async def whole(self, within: float, fault: Fault) -> dict[str, float]:
        """Wait until devices are heard, rows move and the issuer is active; return the seconds."""
        began, heard, took = time.monotonic(), self.recorded(), dict[str, float]()
        rows: list[int] = []

        async def look() -> bool:
            nonlocal rows
            parts = {
                "processes": self.stack.all_run(),
                "events": self.recorded() >= heard + HEARD,
                "issuer": await asyncio.to_thread(self.issuer_active),
            }
            now = await asyncio.to_thread(self.rows)
            parts["rows"] = bool(rows) and all(map(int.__gt__, now, rows))
            rows = rows or now
            for name, holds in parts.items():
                if holds:
                    took.setdefault(name, time.monotonic() - began)
                else:
                    took.pop(name, None)  # it looked well before anybody noticed the fault
            return all(parts.values())

        def missed() -> str:
            said = [
                f"{one['name']} {one['state']} (started anew {one['restarts']} times)"
                for one in self.stack.processes().values()
            ]
            return f"whole after {fault}; came back: {took}; processes: {', '.join(said)}"

        await until_async(look, within, missed)
        return took | {"all": time.monotonic() - began}


@dataclass
class Chaos:
    """A series of faults, the same one for the same seed."""

    stack: RunningStack
    probe: Probe
    seed: int
    recovery: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def choose(self) -> Fault:
        """Return the next fault."""
        name = self._chance.choice(sorted(self.stack.processes()))
        stopped = self._chance.random() < STOP_SHARE
        seconds = self._chance.uniform(*STOP_SECONDS)
        return Fault(name, seconds if stopped else 0.0)

    async def inflict(self, fault: Fault, within: float) -> None:
        """Do it, and wait until the stack is whole again."""
        pid = self.stack.processes()[fault.name]["pid"]
        if fault.seconds:
            os.kill(pid, signal.SIGSTOP)
            await lasting(fault.seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT if fault.seconds else signal.SIGKILL)
        took = await self.probe.whole(within, fault)
        kind = "stopped" if fault.seconds else "killed"
        self.recovery[f"{fault.name} {kind}"].append(took)
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in took.items())
        print(f"{fault}: {parts}", flush=True)

    def table(self) -> str:
        """Return how long recoveries took, in seconds: the whole, and the median of each part."""
        parts = ("processes", "events", "issuer", "rows")
        lines = [f"{'recovery, seconds':22} {'n':>3} {'median':>7} {'most':>6}  {'  '.join(parts)}"]
        for name, took in sorted(self.recovery.items()):
            whole = [one["all"] for one in took]
            each = "  ".join(
                f"{statistics.median(one[part] for one in took):{len(part)}.1f}" for part in parts
            )
            median = statistics.median(whole)
            lines.append(f"{name:22} {len(took):3} {median:7.1f} {max(whole):6.1f}  {each}")
        return "\n".join(lines)
