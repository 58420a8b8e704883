"""What a push would do to a registry, and whom it would talk to."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import remote
from client.errors import FleetError
from client.push import Held, Plan, Taken, planned
from schemas import registry
from schemas.registry import Registered

WANTED = registry.of_records()
EMPTY = Held({}, {}, {})
SOME = st.sets(st.sampled_from(WANTED))


def after(held: Held, plan: Plan) -> Held:
    """Return what a registry holds once a plan is done."""
    levels = dict.fromkeys(plan.levels, registry.COMPATIBILITY)
    return _holding(held, plan.register, held.levels | levels)


def _holding(held: Held, more: tuple[Registered, ...], levels: Mapping[str, str]) -> Held:
    texts = {one.schema.schema_id: one.schema.text for one in more}
    versions = {subject: dict(ids) for subject, ids in held.versions.items()}
    for one in more:
        versions.setdefault(one.subject, {})[one.version] = one.schema.schema_id
    return Held({**held.texts, **texts}, versions, levels)


@settings(deadline=None)
@given(SOME)
def test_what_is_there_stays_and_all_is_there_afterwards(there: set[Registered]) -> None:
    """Whatever the registry holds of ours: the plan is the rest, and the next plan is empty."""
    held = _holding(EMPTY, tuple(there), {})
    plan = planned(held, WANTED)
    assert set(plan.register) == set(WANTED) - there
    assert set(plan.unknown) == {one.schema for one in plan.register}
    assert planned(after(held, plan), WANTED) == Plan((), (), ())
    for missing in plan.subjects.values():
        assert [one.version for one in missing] == sorted(one.version for one in missing)


@settings(deadline=None)
@given(SOME, st.sampled_from(WANTED), st.sampled_from(WANTED))
def test_another_schema_under_an_id_of_ours_ends_it(
    there: set[Registered], one: Registered, other: Registered
) -> None:
    """Whatever else is there; the same schema is no other, however it is written."""
    held = _holding(EMPTY, tuple(there), {})
    texts = {**held.texts, one.schema.schema_id: other.schema.text}
    odd = Held(texts, held.versions, {})
    if one == other:
        spread = json.dumps(json.loads(one.schema.text), indent=1)
        planned(replace(odd, texts={**texts, one.schema.schema_id: spread}), WANTED)
        return
    with pytest.raises(Taken, match=f"id {one.schema.schema_id} is not {one.schema.record}"):
        planned(odd, WANTED)


@settings(deadline=None)
@given(st.sampled_from(WANTED))
def test_another_id_in_a_version_of_ours_ends_it(one: Registered) -> None:
    """Somebody's serializer has registered by itself there."""
    held = Held({}, {one.subject: {one.version: 1}}, {})
    with pytest.raises(Taken, match=f"has id 1, not {one.schema.schema_id}"):
        planned(held, WANTED)


def test_many_objections_are_told_in_one_line() -> None:
    """The first few, and how many more."""
    held = Held(dict.fromkeys((one.schema.schema_id for one in WANTED), "{}"), {}, {})
    with pytest.raises(Taken) as told:
        planned(held, WANTED)
    assert f"and {len(WANTED) - 5} more" in str(told.value)
    assert str(told.value).count(";") == 5


def test_only_histories_are_held_to_evolve() -> None:
    """A row is folded anew: its subject keeps the compatibility that the registry gives."""
    held = set(planned(EMPTY, WANTED).levels)
    assert {"fleetcert.DeviceReported", "fleetcert.Decision", "fleetcert.FleetCreated"} <= held
    rows = {one.subject for one in WANTED if one.schema.file.startswith("state/")}
    assert rows
    assert held.isdisjoint(rows)


def test_contents_are_every_schema_under_its_id() -> None:
    """As Apicurio reads them: one document and one text each, the same schema all the same."""
    schemas = [one.schema for one in WANTED]
    with zipfile.ZipFile(BytesIO(remote.contents(schemas))) as file:
        found = {
            json.loads(file.read(name))["contentId"]: file.read(name.replace(".json", ".data"))
            for name in file.namelist()
            if name.endswith(".Content.json")
        }
    assert set(found) == {one.schema_id for one in schemas}
    assert all(registry.same(found[one.schema_id].decode(), one) for one in schemas)
    assert not any(b':"{}"' in text for text in found.values())


@pytest.mark.parametrize(
    ("url", "user", "said"),
    [
        ("localhost:8081", "", "is no address of a registry"),
        ("ftp://registry", "", "is no address of a registry"),
        ("https://me:secret@registry", "", "--password-file"),
        ("http://registry.example", "me", "over TLS only"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(url: str, user: str, said: str) -> None:
    """Before anything is sent; a password in it is not repeated."""
    with pytest.raises(FleetError, match=said) as refused:
        remote.Place(url, user, "hidden")
    assert "secret" not in str(refused.value)
    assert "hidden" not in repr(remote.Place("https://registry", "me", "hidden"))


def test_a_missing_ca_is_told() -> None:
    """With the file's name."""
    with pytest.raises(FleetError, match=r"nowhere\.pem: no certificates to trust"):
        remote.Place("https://registry", ca="nowhere.pem").trust()
