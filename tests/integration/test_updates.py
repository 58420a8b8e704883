"""Devices of MQTT and of CoAP, as processes of their own, updated by campaigns: half roll back."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.fleets import Fleets
from client.local import dtls13
from device import slots
from device.coap.link import COAPS, COAPS_TCP
from device.link import MQTTS
from schemas.events import CommandAnswered
from schemas.progress import IN_WORK, Progress
from schemas.topics import DEVICE_EVENTS
from tests.helpers.artefacts import KEY_ID, Artefacts, serving
from tests.helpers.devices import Device, devices
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until_async

FLEET = "cranes"
COAP = COAPS if dtls13.installed() else COAPS_TCP
GOOD = {"crane.good": MQTTS, "winch.good": COAP}
BAD = {"crane.bad": MQTTS, "winch.bad": COAP}
ALL = GOOD | BAD
"""The devices, and how each speaks."""


@pytest.fixture
def artefacts() -> Iterator[Artefacts]:
    """A server of signed artefacts."""
    with serving() as served:
        yield served


@contextlib.asynccontextmanager
async def updating(
    stack: RunningStack, directory: Path, artefacts: Artefacts
) -> AsyncIterator[list[Device]]:
    """Let members live that update themselves; the self check of the bad ones fails."""
    key = directory / "release.pem"
    public = artefacts.key.public_key()
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    async with devices(stack, directory, list(ALL)) as made:
        with Fleets(stack.layout.bootstrap) as fleets:
            await asyncio.to_thread(fleets.create, FLEET, devices=tuple(ALL))
        for one in made:
            one.scheme = ALL[one.device_id]
            check = "true" if one.device_id in GOOD else "false"
            one.options = ("--update-key", f"{KEY_ID}={key}", "--health", check)
        kept = [asyncio.create_task(one.kept_running()) for one in made]
        try:
            yield made
        finally:
            for one in kept:
                one.cancel()
            await asyncio.gather(*kept, return_exceptions=True)


def spec(artefacts: Artefacts, version: str, **knobs: Any) -> str:
    """Return the campaign that brings an artefact, as an operator writes it."""
    update = artefacts.offer(version, version.encode() * 100_000)
    artefact = {
        "kind": update.kind, "name": update.name, "version": version, "uri": update.uri,
        "size": update.size, "sha256": update.sha256.hex(), "keyId": update.key_id,
        "signature": update.signature.hex(),
    }  # fmt: skip
    return json.dumps({"kind": "update", "artefact": artefact, "anyTime": True} | knobs)


def in_work(stack: RunningStack, campaign_id: str) -> dict[str, str]:
    """Return what the campaign tells of how far each device in work is."""
    _, *members = stack.json("campaign", "show", FLEET, campaign_id)
    return {one["device_id"]: one["order"]["progress"] for one in members if one["order"]}


def ends(stack: RunningStack, campaign_id: str) -> dict[str, str]:
    """Return the campaign's state, and how each device's part in it ended."""
    row, *members = stack.json("campaign", "show", FLEET, campaign_id)
    found = {one["device_id"]: one["last"] or {} for one in members}
    reasons = {name: f"{last.get('outcome')} {last.get('reason')}" for name, last in found.items()}
    return {"state": row["state"]} | reasons


def words(stack: RunningStack, device_id: str) -> list[str]:
    """Return what a device has said of its updates, in its order: repeats have their number."""
    found = [one.record for one in stack.fleet.read(DEVICE_EVENTS, key=device_id.encode())]
    said = {
        (one.numbering.boot, one.numbering.sequence): one.progress
        for one in found
        if isinstance(one, CommandAnswered) and one.progress and one.numbering
    }
    return [said[number] for number in sorted(said)]


def spoken(stack: RunningStack, device_id: str) -> set[str]:
    """Return the protocols that a device's answers came by."""
    found = [one.record for one in stack.fleet.read(DEVICE_EVENTS, key=device_id.encode())]
    return {one.evidence.protocol for one in found if isinstance(one, CommandAnswered)}


async def test_half_roll_back_and_the_threshold_decides(
    stack: RunningStack, tmp_path: Path, artefacts: Artefacts
) -> None:
    """Half have failed: a campaign that allows half completes, one that allows less halts.

    Over CoAP as over MQTT: fetched, which the operator sees, installed, tried after a reboot, each
    step told once.
    """

    async def run(version: str, threshold: float, state: str) -> None:
        text = spec(artefacts, version, failureThreshold=threshold, finishedMin=len(ALL))
        create = ("campaign", "create", FLEET, f"v{version}", "--spec", text)
        artefacts.flowing.clear()
        done = await asyncio.to_thread(stack.command, *create)
        assert done.returncode == 0, done.stderr
        await shown(in_work, f"v{version}", dict.fromkeys(ALL, Progress.DOWNLOADING.value))
        artefacts.flowing.set()
        expected = {"state": state} | dict.fromkeys(GOOD, "succeeded none")
        await shown(ends, f"v{version}", expected | dict.fromkeys(BAD, "failed rolled-back"))

    async def shown(
        told: Callable[[RunningStack, str], dict[str, str]], version: str, wanted: dict[str, str]
    ) -> None:
        found: dict[str, str] = {}

        def as_wanted() -> bool:
            nonlocal found
            found = told(stack, version)
            return found == wanted

        await until_async(
            lambda: asyncio.to_thread(as_wanted),
            within=90,
            describe=lambda: f"{version} tells {wanted}, it is {found}",
        )

    async with updating(stack, tmp_path, artefacts):
        await run("1", 0.5, "completed")
        await run("2", 0.4, "halted")
    for name in GOOD:
        good = slots.read(tmp_path / name)
        assert good.good is not None
        assert (good.good.version, good.good.slot) == ("2", "b")
        assert slots.is_whole(tmp_path / name, good.good)
        assert words(stack, name) == [*IN_WORK, "done"] * 2
    for name in BAD:
        assert slots.read(tmp_path / name).good is None
        assert words(stack, name) == [*IN_WORK, "rolled-back"] * 2
    for name, scheme in ALL.items():
        assert spoken(stack, name) == {"mqtt" if scheme == MQTTS else "coap"}
