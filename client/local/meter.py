"""What the supervisor shows to Prometheus: each process, its restarts, the room on its volume."""

from protocols.exposition import Registry
from schemas.metrics import services as metrics


class Meter:
    """The supervisor's metrics; the labels are the processes' names."""

    def __init__(self, registry: Registry) -> None:
        self._running = registry.gauge(metrics.STACK_PROCESS_RUNNING)
        self._restarts = registry.gauge(metrics.STACK_RESTARTS)
        self._full = registry.gauge(metrics.STACK_VOLUME_FULL)
        self._free = registry.gauge(metrics.STACK_VOLUME_FREE)

    def process(self, name: str, running: bool, restarts: int) -> None:
        """Show a process: whether it is ready, and how often it was started anew."""
        self._running.labels(name).set(int(running))
        self._restarts.labels(name).set(restarts)

    def volume(self, process: str, free: int, full: bool) -> None:
        """Show the room on a process's volume."""
        self._free.labels(process).set(free)
        self._full.labels(process).set(int(full))
