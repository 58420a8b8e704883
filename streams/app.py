"""The Faust application: the composition of one worker process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from prometheus_client import start_http_server

from schemas.topics import DEVICE_EVENTS, DEVICE_STATE
from streams.core.device import MACHINE
from streams.engine.transport import BatchTransport
from streams.engine.watchdog import Watchdog
from streams.engine.worker import Worker
from streams.meter import PrometheusMeter


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker is started. Spans are seconds; `metrics_port` zero means no endpoint."""

    bootstrap: str = "127.0.0.1:9092"
    data_dir: Path = Path("var/worker")
    application: str = "fleetcert-devices"
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"
    tick_seconds: float = 1.0
    session_timeout_seconds: float = 10.0
    commit_seconds: float = 1.0
    batch_max: int = 5_000
    stall_seconds: float = 60.0


def create(settings: Settings) -> faust.App:
    """Compose the application. Nothing is connected before it starts."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    brokers = [f"kafka://{one}" for one in settings.bootstrap.split(",")]
    app = faust.App(
        settings.application,
        broker=brokers,
        broker_commit_interval=settings.commit_seconds,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=settings.session_timeout_seconds / 4,
        broker_max_poll_records=settings.batch_max,
        consumer_auto_offset_reset="earliest",
        datadir=str(settings.data_dir / "faust"),
        processing_guarantee="at_least_once",
        stream_wait_empty=False,
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    app.transport = BatchTransport([*app.conf.broker], app, loop=app.loop)
    _connect(app, settings)
    return app


def _connect(app: faust.App, settings: Settings) -> None:
    """Connect the one agent, the clock, the watchdog and the assignment."""
    topic = app.topic(DEVICE_EVENTS, value_serializer="raw", key_serializer="raw")
    state: dict[str, Worker[Any]] = {}

    def worker() -> Worker[Any]:
        if "worker" not in state:
            state["worker"] = Worker(
                MACHINE,
                DEVICE_STATE,
                settings.bootstrap,
                settings.data_dir,
                PrometheusMeter(),
            )
        return state["worker"]

    @app.agent(topic, name="devices", concurrency=1)
    async def devices(stream: Any) -> None:
        async for event in stream.events():
            await worker().apply(event.message.partition, event.message.value)

    @app.on_partitions_assigned.connect
    async def assigned(_app: Any, partitions: Any, **_: Any) -> None:
        worker().assigned(one.partition for one in partitions if one.topic == DEVICE_EVENTS)

    @app.on_partitions_revoked.connect
    async def revoked(_app: Any, partitions: Any, **_: Any) -> None:
        await worker().revoked([one.partition for one in partitions if one.topic == DEVICE_EVENTS])

    @app.task
    async def metrics() -> None:
        if settings.metrics_port:
            start_http_server(settings.metrics_port, settings.metrics_host)

    @app.timer(settings.tick_seconds)
    async def tick() -> None:
        worker().tick()

    watchdog = Watchdog(settings.bootstrap, settings.application, settings.stall_seconds)

    @app.timer(5.0)
    async def watch() -> None:
        await watchdog.look(worker().applied_at, bool(app.consumer.assignment()))

    @app.on_before_shutdown.connect
    async def drained(_app: Any, **_: Any) -> None:
        await worker().close()
