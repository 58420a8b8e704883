"""The Faust application: the composition of one worker process."""

import ssl
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faust
import structlog
from faust.types import TP

from configuration.cluster import Cluster, Security
from protocols.exposition import Endpoint, Registry
from schemas.metrics.metric import FLEETS_MAX
from streams.engine import room
from streams.engine.failure import EngineFailed
from streams.engine.program import Program
from streams.engine.table import Place
from streams.engine.transport import BatchTransport
from streams.engine.watchdog import Watchdog
from streams.engine.worker import Worker
from streams.meter import PrometheusMeter
from streams.programs import PROGRAMS

LIVE = "live"
"""The clock of a worker that writes the time itself."""

BUFFERED_BATCHES = 2
"""Batches between fetcher and program; beyond, the fetcher waits, and Kafka keeps the rest."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker is started. Spans are seconds; `metrics_port` zero means no endpoint.

    With less than `room_mebibytes` free on the volume of `data_dir` the worker ends. With the
    clock `recorded` it writes no ticks: time moves by those that somebody else records.
    """

    cluster: Cluster = field(default_factory=Cluster)
    data_dir: Path = Path("var/worker")
    snapshots: Path = Path("var/stack/snapshots")
    application: str = "fleetcert-devices"
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"
    metrics_fleets_max: int = FLEETS_MAX
    tick_seconds: float = 1.0
    clock: str = LIVE
    session_timeout_seconds: float = 6.0
    commit_seconds: float = 1.0
    batch_max: int = 20_000
    stall_seconds: float = 60.0
    room_mebibytes: int = room.ROOM_BYTES_MIN >> 20


def create(settings: Settings, programs: Sequence[Program[Any]] = PROGRAMS) -> faust.App:
    """Compose the application. Nothing is connected before it starts.

    Raises EngineFailed where the disk is full.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    room_min = settings.room_mebibytes << 20
    room.check(settings.data_dir, room_min)
    brokers = [f"kafka://{one}" for one in settings.cluster.bootstrap.split(",")]
    instance = _instance(settings.data_dir)
    app = faust.App(
        settings.cluster.named(settings.application),
        broker=brokers,
        broker_credentials=_credentials(settings.cluster.security),
        broker_commit_interval=settings.commit_seconds,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=settings.session_timeout_seconds / 4,
        broker_max_poll_records=settings.batch_max,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=instance,
        canonical_url=f"http://{instance}",  # Faust asserts it is the one it joined under
        datadir=str(settings.data_dir / "faust"),
        processing_guarantee="at_least_once",
        stream_buffer_maxsize=BUFFERED_BATCHES,
        stream_wait_empty=False,
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    app.transport = BatchTransport([*app.conf.broker], app, loop=app.loop)
    place = Place(
        settings.cluster, settings.application, settings.data_dir, settings.snapshots, room_min
    )
    registry = Registry()
    meter = PrometheusMeter(registry, settings.metrics_fleets_max)
    meter.volume(lambda: room.free(settings.data_dir))
    for program in programs:
        _run(app, settings, program, place, meter)

    @app.task
    async def metrics() -> None:
        if settings.metrics_port:
            Endpoint(registry, settings.metrics_port, settings.metrics_host)

    return app


def _credentials(security: Security | None) -> Any:
    """Return what Faust's own client shows to Kafka. Raises EngineFailed for unusable files."""
    if security is None:
        return None
    try:
        context = ssl.create_default_context(cafile=security.ca)
        if security.cert:
            context.load_cert_chain(security.cert, security.key)
    except OSError as error:  # of which ssl's are
        raise EngineFailed(f"kafka.tls: {error}") from error
    if not security.username:
        return faust.SSLCredentials(context=context)
    return faust.SASLCredentials(
        username=security.username,
        password=security.password,
        mechanism=security.mechanism,
        ssl_context=context,
    )


def _run(
    app: faust.App,
    settings: Settings,
    program: Program[Any],
    place: Place,
    meter: PrometheusMeter,
) -> None:
    """Connect one program: its agent, its clock, its watchdog and the assignment."""
    name = settings.cluster.named(program.events)
    topic = app.topic(name, value_serializer="raw", key_serializer="raw")

    def end(partition: int) -> int | None:
        try:
            return int(app.consumer.highwater(TP(name, partition)))
        except Exception:  # nothing was heard of it yet, or not any more
            return None

    worker: Worker[Any] = Worker(program, place, meter.of(program.name, end), settings.batch_max)
    app.transport.progress[name] = worker.progress
    group, stall = settings.application, settings.stall_seconds
    watchdog = Watchdog(settings.cluster, group, program.events, worker.progress, stall)
    meter.watch(program.name, lambda: watchdog.standstill_seconds)

    def ours(partitions: Any) -> list[int]:
        return [one.partition for one in partitions if one.topic == name]

    async def batches(stream: Any) -> None:
        async for event in stream.events():
            await worker.take(event.message.partition, event.message.value)

    app.agent(topic, name=program.name, concurrency=1)(batches)

    async def assigned(_app: Any, partitions: Any, **_: Any) -> None:
        worker.assigned(ours(partitions))

    async def revoked(_app: Any, partitions: Any, **_: Any) -> None:
        await worker.revoked(ours(partitions))

    async def drained(_app: Any, **_: Any) -> None:
        watchdog.stop()
        await worker.close()

    app.on_partitions_assigned.connect(assigned)
    app.on_partitions_revoked.connect(revoked)
    app.on_before_shutdown.connect(drained)

    async def tick() -> None:
        worker.tick()

    async def watch() -> None:
        watchdog.start()

    if settings.clock != LIVE:  # nothing need come each second: who stands still may be well
        log.warning("clock.recorded", program=program.name, detail="time waits for recorded ticks")
        return
    app.timer(settings.tick_seconds, name=f"tick-{program.name}")(tick)
    app.task(watch)


def _instance(data_dir: Path) -> str:
    """Return the name of the worker that has this disk: a restart under it moves no partition.

    The group knows a member by it (KIP-345), so a worker that comes back within the session
    time-out goes on with its partitions at once. Its URL is made of it too: the broker answers a
    member that comes back with its former assignment, and a container's host name is a new one.
    """
    file = data_dir / "instance"
    if not file.exists():
        unfinished = file.with_suffix(".new")
        unfinished.write_text(f"worker-{uuid.uuid4().hex}")
        unfinished.rename(file)
    return file.read_text()
