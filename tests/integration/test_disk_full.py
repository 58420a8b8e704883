"""A volume is full: its process stops, an alarm says why, nothing is lost, and all resumes."""

import asyncio
import shutil
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from client.demo import fleet as demo
from client.local import supervisor
from device.simulator import Plan, Simulator
from tests.helpers import ledger
from tests.helpers.chaos import Fault, Probe
from tests.helpers.stack import RunningStack, running_stack
from tests.helpers.volumes import fill
from tests.helpers.wait import until_async

KAFKA_MIB, WORKER_MIB = 320, 256
DEVICES = 3
RATE = 10.0
WITHIN = 60.0
MORE = 100
"""Events that devices keep, or that are recorded, while the volume is full."""


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack whose Kafka and whose worker have volumes of their own."""
    volumes = {"kafka/data": KAFKA_MIB, "worker-0": WORKER_MIB}
    with running_stack(tmp_path_factory.mktemp("narrow"), volumes=volumes) as stack:
        yield stack


@asynccontextmanager
async def living(stack: RunningStack, folder: Path, prefix: str) -> AsyncIterator[Simulator]:
    """Let devices report; at the end everything that they said is recorded, and nothing twice."""
    ca_file = stack.layout.pki_dir / "service-ca" / "ca.pem"
    port = stack.layout.device_port
    plan = Plan(folder, "localhost", port, ca_file, DEVICES, rate=RATE, prefix=prefix)
    simulator = Simulator(plan)
    counts = simulator.ledger.counts
    demo.enrol(stack.authorities, plan.directory, simulator.behaviours, stack.fleet)
    running = asyncio.create_task(simulator.run())
    await until_async(lambda: counts["recorded"] > DEVICES, WITHIN, "devices are heard")
    yield simulator
    simulator.stop()
    await running
    assert simulator.left() == 0
    ledger.assert_nothing_lost_or_doubled(stack.fleet, [folder / "ledger.jsonl"], prefix)
    ledger.assert_rows_are_the_replay(stack.fleet, stack.layout.bootstrap, prefix)


def alarmed(stack: RunningStack, name: str) -> bool:
    """Tell whether the process is stopped for want of room, and an alarm stands."""
    found = supervisor.status(stack.layout)
    return bool(found.get("alarms")) and stack.processes()[name]["state"] == supervisor.FULL


def assert_alarm_is_visible(stack: RunningStack, name: str) -> None:
    """`fleetcert status`, the log and the metrics say what is wrong and what to do."""
    shown = stack.command("status")
    assert shown.returncode == 1
    assert f"ALARM {name} is stopped" in shown.stdout
    assert "make room" in (stack.layout.data_dir / "supervisor.log").read_text()
    url = f"http://127.0.0.1:{stack.layout.supervisor_port}/metrics"
    with urllib.request.urlopen(url) as answer:
        assert f'stack_volume_full{{process="{name}"}} 1.0' in answer.read().decode()


async def test_kafka_without_room_acknowledges_nothing_and_loses_nothing(
    narrow: RunningStack, tmp_path: Path
) -> None:
    """Devices keep their events while Kafka has no room; with room all of it is recorded."""
    data = narrow.seen_inside(narrow.layout.kafka_dir / "data")
    assert shutil.disk_usage(data).total == KAFKA_MIB << 20
    async with living(narrow, tmp_path / "devices", "keeping") as devices:
        counts = devices.ledger.counts
        await asyncio.to_thread(fill, data / "ballast")
        await until_async(lambda: alarmed(narrow, "kafka"), WITHIN, "the alarm")
        recorded, kept = counts["recorded"], counts["kept"]
        await asyncio.to_thread(assert_alarm_is_visible, narrow, "kafka")
        await until_async(lambda: counts["kept"] > kept + MORE, WITHIN, "devices go on")
        assert counts["recorded"] == recorded, "acknowledged without Kafka"
        assert devices.left() >= MORE
        (data / "ballast").unlink()
        probe = Probe(narrow, lambda: counts["recorded"])
        await probe.whole(WITHIN, Fault("kafka", 0.0))
        assert not supervisor.status(narrow.layout)["alarms"]


async def test_a_worker_without_room_is_waited_for_in_kafka(
    narrow: RunningStack, tmp_path: Path
) -> None:
    """Events are recorded while the worker has no room; with room it folds them all."""
    data = narrow.seen_inside(narrow.layout.data_dir / "worker-0")
    assert shutil.disk_usage(data).total == WORKER_MIB << 20
    async with living(narrow, tmp_path / "devices", "waiting") as devices:
        counts = devices.ledger.counts
        await asyncio.to_thread(fill, data / "ballast")
        await until_async(lambda: alarmed(narrow, "worker-0"), WITHIN, "the alarm")
        recorded = counts["recorded"]
        await asyncio.to_thread(assert_alarm_is_visible, narrow, "worker-0")
        await until_async(lambda: counts["recorded"] > recorded + MORE, WITHIN, "they are heard")
        (data / "ballast").unlink()
        probe = Probe(narrow, lambda: counts["recorded"])
        await probe.whole(WITHIN, Fault("worker-0", 0.0))
        assert not supervisor.status(narrow.layout)["alarms"]
