"""Devices as processes of their own, to be killed, on the stack of a test."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from device import faults, provision
from device.__main__ import REBOOT
from device.link import MQTTS
from device.store import Store
from pki.profile import issue_device
from schemas.states import DeviceRow
from streams.core import certificate
from tests.helpers.stack import RunningStack

END_SECONDS = 20.0


@dataclass
class Device:
    """One device: its directory, its first certificate, and the process that runs it."""

    stack: RunningStack
    device_id: str
    directory: Path
    first: bytes = b""
    options: tuple[str, ...] = ()
    scheme: str = MQTTS
    process: asyncio.subprocess.Process | None = None

    def enrol(self) -> None:
        """Give it a certificate on its own key, and register it."""
        store = Store(self.directory)
        key = store.pending_key(provision.ENROLMENT).public_key()
        start = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
        der = issue_device(
            self.stack.authorities, self.device_id, key, self.device_id, start, timedelta(days=90)
        )
        self.stack.fleet.register(self.device_id, "pump", certificate=der)
        held = provision.adopt(self.device_id, self.directory, x509.load_der_x509_certificate(der))
        self.first = bytes.fromhex(held.fingerprint)

    @property
    def ledger(self) -> Path:
        """What it wrote down."""
        return self.directory / "ledger.jsonl"

    async def start(self, fault: str = "") -> None:
        """Start it, to die at a fault point where one is named."""
        layout = self.stack.layout
        options = {
            "--id": self.device_id,
            "--dir": self.directory,
            "--host": "localhost",
            "--port": layout.device_port if self.scheme == MQTTS else layout.coap_port,
            "--ca": layout.pki_dir / "service-ca" / "ca.pem",
            "--report": "reading",
        }
        if self.scheme != MQTTS:
            options["--coap"] = self.scheme
        words = [str(word) for pair in options.items() for word in pair]
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "device", "run", *words, "--ledger", *self.options],
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | {faults.VARIABLE: fault},
            )
        self.say(1)

    async def kept_running(self) -> None:
        """Start it again whenever it asks for that, until it ends otherwise."""
        while True:
            await self.start()
            assert self.process is not None
            if await self.process.wait() != REBOOT:
                return

    def say(self, value: int) -> None:
        """Make it report something."""
        assert self.process is not None
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(b'{"value": %d}\n' % value)

    def row(self) -> DeviceRow:
        """What the machine knows of it."""
        return self.stack.fleet.device(self.device_id)

    def rotated(self) -> bool:
        """Tell whether it works under another certificate than its first, on both sides."""
        active = certificate.active(self.row()).fingerprint
        return active != self.first and self.current() == active.hex()

    def current(self) -> str:
        """The fingerprint that it works under by itself, read beside it: it owns its store."""
        pointer = self.directory / "current"
        return pointer.read_text().strip() if pointer.exists() else ""

    async def killed(self) -> bool:
        """Wait for its end; tell whether it was SIGKILL."""
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), END_SECONDS) == -signal.SIGKILL

    async def finish(self) -> int:
        """Let it report to the end and drain; return its exit code."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await asyncio.wait_for(self.process.wait(), END_SECONDS)


@contextlib.asynccontextmanager
async def devices(
    stack: RunningStack, directory: Path, names: list[str]
) -> AsyncIterator[list[Device]]:
    """Enrol these devices; kill at the end what still runs of them."""
    made = [Device(stack, name, directory / name) for name in names]
    try:
        for one in made:
            one.directory.mkdir(parents=True)
            await asyncio.to_thread(one.enrol)
        yield made
    finally:
        for one in made:
            if one.process is not None and one.process.returncode is None:
                one.process.kill()
                await one.process.wait()
