"""What the supervisor shows to Prometheus: each process, its restarts, the room on its volume."""

from prometheus_client import CollectorRegistry, Gauge


class Meter:
    """The supervisor's metrics; the labels are the processes' names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._running = Gauge(
            "stack_process_running", "1 where it is ready.", ["process"], registry=registry
        )
        self._restarts = Gauge(
            "stack_restarts", "Ends that nobody asked for.", ["process"], registry=registry
        )
        self._full = Gauge(
            "stack_volume_full", "1 where it is stopped for want of room.", ["process"],
            registry=registry,
        )  # fmt: skip
        self._free = Gauge(
            "stack_volume_free_bytes", "Free on its volume.", ["process"], registry=registry
        )

    def process(self, name: str, running: bool, restarts: int) -> None:
        """Show a process: whether it is ready, and how often it was started anew."""
        self._running.labels(name).set(int(running))
        self._restarts.labels(name).set(restarts)

    def volume(self, process: str, free: int, full: bool) -> None:
        """Show the room on a process's volume."""
        self._free.labels(process).set(free)
        self._full.labels(process).set(int(full))
