"""Two devices, as processes of their own, updated by campaigns: one of them rolls back."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.fleets import Fleets
from device import slots
from schemas.events import CommandAnswered
from schemas.progress import IN_WORK
from schemas.topics import DEVICE_EVENTS
from tests.helpers.artefacts import KEY_ID, Artefacts, serving
from tests.helpers.devices import Device, devices
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until_async

FLEET, GOOD, BAD = "cranes", "crane.good", "crane.bad"


@pytest.fixture
def artefacts() -> Iterator[Artefacts]:
    """A server of signed artefacts."""
    with serving() as served:
        yield served


@contextlib.asynccontextmanager
async def updating(
    stack: RunningStack, directory: Path, artefacts: Artefacts
) -> AsyncIterator[list[Device]]:
    """Let two members live that update themselves; the self check of one fails."""
    key = directory / "release.pem"
    public = artefacts.key.public_key()
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    async with devices(stack, directory, [GOOD, BAD]) as made:
        with Fleets(stack.layout.bootstrap) as fleets:
            await asyncio.to_thread(fleets.create, FLEET, devices=(GOOD, BAD))
        for one, check in zip(made, ("true", "false"), strict=True):
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


async def test_one_of_two_rolls_back_and_the_threshold_decides(
    stack: RunningStack, tmp_path: Path, artefacts: Artefacts
) -> None:
    """Half has failed: a campaign that allows half completes, one that allows less halts."""

    async def run(version: str, threshold: float, state: str) -> None:
        text = spec(artefacts, version, failureThreshold=threshold, finishedMin=2)
        create = ("campaign", "create", FLEET, f"v{version}", "--spec", text)
        done = await asyncio.to_thread(stack.command, *create)
        assert done.returncode == 0, done.stderr
        expected = {"state": state, GOOD: "succeeded none", BAD: "failed rolled-back"}
        found: dict[str, str] = {}

        def as_expected() -> bool:
            nonlocal found
            found = ends(stack, f"v{version}")
            return found == expected

        await until_async(
            lambda: asyncio.to_thread(as_expected),
            within=90,
            describe=lambda: f"v{version} ends so: {expected}, it is {found}",
        )

    async with updating(stack, tmp_path, artefacts):
        await run("1", 0.5, "completed")
        await run("2", 0.4, "halted")
    good = slots.read(tmp_path / GOOD)
    assert good.good is not None
    assert (good.good.version, good.good.slot) == ("2", "b")
    assert slots.is_whole(tmp_path / GOOD, good.good)
    assert slots.read(tmp_path / BAD).good is None
    assert words(stack, GOOD) == [*IN_WORK, "done"] * 2
    assert words(stack, BAD) == [*IN_WORK, "rolled-back"] * 2
