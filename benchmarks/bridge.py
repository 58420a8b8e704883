"""The bridge beside others: `python -m benchmarks.bridge [--messages N] [--repetitions R]`.

The work (W2): MQTT at QoS 1 over mutual TLS 1.3 to Kafka, acknowledged to the broker after Kafka
has it. All read the same buckets from the same broker with the plugin; only our bridge also
verifies each stamp, reads the device's number, encodes Avro, bounds what waits, and (`told`) tells
each device what is recorded; and only it may lose nothing. `drain`: the messages wait in persistent
sessions; measured from the first record to the last. `live`: devices publish meanwhile. CPU is the
bridge's process alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.rig import Rig, cpu_seconds, go, go_program, line, peak_mib
from schemas.topics import DEVICE_EVENTS
from tests.helpers.wait import until

PEERS = ("fleetcert", "fleetcert told", "bento", "aiomqtt", "paho")
MODES = ("drain", "live")
SESSION = "@bench"
POLL_SECONDS = 0.02
STILL_SECONDS = 5.0
"""So long without a record, and the rest is lost: a peer that loses is measured all the same."""
WARM_UP_MESSAGES = 50_000
"""Of a run that is not counted: a Kafka that has just started holds up whoever comes first."""


def once(rig: Rig, peer: str, mode: str, messages: int, devices: int) -> dict[str, object]:
    """Run one peer once; return what was measured."""
    ours = peer.startswith("fleetcert")
    topic = rig.topic(DEVICE_EVENTS if ours else f"bench-{time.monotonic_ns()}")
    with ExitStack() as stack:
        broker = stack.enter_context(rig.broker())
        load = rig.load("publish", n=messages, numbered=peer == "fleetcert told")
        before = rig.records(topic)
        _make_sessions(rig, ours)
        with ExitStack() as publishing:
            loading = publishing.enter_context(rig.process(load, "load"))
            _wait_line(loading, "ready")
            wanted = messages + devices  # whoever connects is told of, in a record of its own
            if mode == "drain":
                go(loading)
                _wait_line(loading, "published")
                publishing.close()
                wanted += devices
            running = stack.enter_context(_bridge(rig, peer, topic))
            stack.enter_context(publishing.pop_all())
            first = until(lambda: rig.records(topic) - before, 60, "a record")
            if mode == "live":
                first, _ = _count(rig, topic, before, devices)
                wanted = first + messages
                go(loading)
            began, cpu, other = time.monotonic(), cpu_seconds(running.pid), cpu_seconds(broker)
        found, ended = _count(rig, topic, before, wanted)
        lost, moved, seconds = wanted - found, found - first, ended - began
        if running.poll() is not None or moved <= 0 or (ours and lost > 0):
            raise SystemExit(f"{peer} {mode}: {found} of {wanted}; its exit: {running.poll()}")
        return {
            "peer": peer,
            "mode": mode,
            "messages": messages,
            "thousand_per_s": moved / seconds / 1000,
            "cpu_s_per_million": (cpu_seconds(running.pid) - cpu) / moved * 1e6,
            "broker_cpu_s_per_million": (cpu_seconds(broker) - other) / moved * 1e6,
            "peak_mib": peak_mib(running.pid),
            "lost": max(0, lost),
            "duplicates": max(0, -lost),
        }


def _make_sessions(rig: Rig, ours: bool) -> None:
    """Let the broker know who will come for the messages."""
    if not ours:
        certificate, key = rig.certificate
        command = rig.load("session", id=SESSION, cert=certificate, key=key)
        subprocess.run(command, check=True, timeout=30)
        return
    log = rig.layout.log_dir / "fleetcert.log"
    seen = log.stat().st_size if log.exists() else 0
    with rig.process(rig.bridge_command("bench"), "fleetcert"):
        until(
            lambda: log.read_text()[seen:].count("bucket.up") == rig.layout.buckets,
            30,
            lambda: f"all buckets are up: {log.read_text()[seen:]}",
        )


def _count(rig: Rig, topic: str, before: int, wanted: int) -> tuple[int, float]:
    """Return how many records came, and when: so many, or all that come."""
    found, at = 0, time.monotonic()
    while found < wanted and time.monotonic() - at < STILL_SECONDS:
        now = rig.records(topic) - before
        if now > found:
            found, at = now, time.monotonic()
        time.sleep(POLL_SECONDS)
    return found, at


@contextmanager
def _bridge(rig: Rig, peer: str, topic: str) -> Iterator[subprocess.Popen[str]]:
    certificate, key = rig.certificate
    environment = {
        "MQTT": f"localhost:{rig.layout.service_port}",
        "BOOTSTRAP": rig.kafka.bootstrap,
        "TOPIC": topic,
        "CLIENT_ID": SESSION,
        "CA": str(rig.ca),
        "CERT": str(certificate),
        "KEY": str(key),
    }
    if peer == "bento":
        command = [str(go_program("bento")), "-c", str(Path(__file__).parent / "bento/bridge.yaml")]
    elif peer in ("aiomqtt", "paho"):
        command = [sys.executable, "-m", f"benchmarks.{peer}_bridge"]
    else:
        command = rig.bridge_command("bench")
    with rig.process(command, peer.split()[0], environment) as running:
        yield running


def _wait_line(load: subprocess.Popen[str], word: str) -> None:
    said = line(load)
    if not said.startswith(word):
        raise SystemExit(f"the load generator said {said!r} where {word!r} was due")


def main(argv: list[str] | None = None) -> int:
    """Measure and print: a JSON line per run, then the medians with their spread."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bridge", description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--buckets", type=int, default=8)
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    options = parser.parse_args(argv)
    runs: dict[tuple[str, str], list[dict[str, object]]] = {}
    if "bento" in options.peers:
        go_program("bento")  # minutes, the first time: nothing may wait in a broker meanwhile
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), options.devices, options.buckets, partitions=4)
        try:
            once(rig, options.peers[0], "drain", WARM_UP_MESSAGES, options.devices)
            for _ in range(options.repetitions):
                for mode in options.modes:
                    for peer in options.peers:
                        run = once(rig, peer, mode, options.messages, options.devices)
                        sys.stdout.write(json.dumps(run) + "\n")
                        sys.stdout.flush()
                        runs.setdefault((peer, mode), []).append(run)
        finally:
            rig.close()
    for (peer, mode), found in runs.items():
        sys.stdout.write(f"{peer} {mode}: {_spread(found)}\n")
    return 0


def _spread(runs: list[dict[str, object]]) -> str:
    texts = []
    for name in ("thousand_per_s", "cpu_s_per_million", "broker_cpu_s_per_million", "peak_mib"):
        values = [float(str(one[name])) for one in runs]
        middle = statistics.median(values)
        texts.append(f"{name} {middle:.1f} ({min(values):.1f} to {max(values):.1f})")
    return ", ".join(texts)


if __name__ == "__main__":
    sys.exit(main())
