"""Kafka's volume is full: nothing is acknowledged, an alarm says why, and all resumes with room."""

import asyncio
import shutil
import urllib.request
from pathlib import Path

from client.demo import fleet as demo
from client.local import supervisor
from device.simulator import Plan, Simulator
from tests.helpers import ledger
from tests.helpers.chaos import Fault, Probe
from tests.helpers.stack import RunningStack, running_stack
from tests.helpers.wait import until_async

VOLUME_MIB = 320
DEVICES = 3
RATE = 10.0
WITHIN = 60.0
MORE = 100
"""Events that devices keep while nothing is acknowledged."""


def fill(path: Path) -> None:
    """Write until there is no room for another byte."""
    block = bytes(1 << 20)
    with path.open("wb", buffering=0) as ballast:
        while True:
            try:
                ballast.write(block)
            except OSError:
                if len(block) == 1:
                    return
                block = block[: len(block) // 2]


def alarmed(stack: RunningStack) -> bool:
    """Tell whether Kafka is stopped for want of room, and an alarm stands."""
    found = supervisor.status(stack.layout)
    return bool(found.get("alarms")) and stack.processes()["kafka"]["state"] == supervisor.FULL


def assert_alarm_is_visible(stack: RunningStack) -> None:
    """`fleetcert status`, the log and the metrics say what is wrong and what to do."""
    shown = stack.command("status")
    assert shown.returncode == 1
    assert "ALARM kafka is stopped" in shown.stdout
    assert "make room" in (stack.layout.data_dir / "supervisor.log").read_text()
    url = f"http://127.0.0.1:{stack.layout.supervisor_port}/metrics"
    with urllib.request.urlopen(url) as answer:
        assert 'stack_volume_full{process="kafka"} 1.0' in answer.read().decode()


async def test_a_full_volume_stops_the_acknowledgements_and_loses_nothing(tmp_path: Path) -> None:
    """Devices keep their events while Kafka has no room; with room all of it is recorded."""
    with running_stack(tmp_path / "stack", kafka_volume_mib=VOLUME_MIB) as stack:
        data = stack.seen_inside(stack.layout.kafka_dir / "data")
        assert shutil.disk_usage(data).total == VOLUME_MIB << 20
        ca_file = stack.layout.pki_dir / "service-ca" / "ca.pem"
        plan = Plan(
            tmp_path / "devices", "localhost", stack.layout.device_port, ca_file, DEVICES, rate=RATE
        )
        simulator = Simulator(plan)
        counts = simulator.ledger.counts
        demo.enrol(stack.authorities, plan.directory, simulator.behaviours, stack.fleet)
        living = asyncio.create_task(simulator.run())
        await until_async(lambda: counts["recorded"] > DEVICES, WITHIN, "devices are heard")

        await asyncio.to_thread(fill, data / "ballast")
        await until_async(lambda: alarmed(stack), WITHIN, "the alarm")
        recorded, kept = counts["recorded"], counts["kept"]
        await asyncio.to_thread(assert_alarm_is_visible, stack)
        await until_async(lambda: counts["kept"] > kept + MORE, WITHIN, "devices go on")
        assert counts["recorded"] == recorded, "acknowledged without Kafka"
        assert simulator.left() >= MORE

        (data / "ballast").unlink()
        probe = Probe(stack, lambda: counts["recorded"])
        await probe.whole(WITHIN, Fault("kafka", 0.0))
        assert not supervisor.status(stack.layout)["alarms"]
        simulator.stop()
        await living
        assert simulator.left() == 0
        ledgers = [plan.directory / "ledger.jsonl"]
        ledger.assert_nothing_lost_or_doubled(stack.fleet, ledgers, "a full volume")
        ledger.assert_rows_are_the_replay(stack.fleet, stack.layout.bootstrap, "a full volume")
