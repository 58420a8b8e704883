"""A fleet's configuration: defaults, deep merge, refusals that name the path."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.fleet_states import FleetConfig
from streams.core import fleet_config
from streams.core.fleet_config import FIELDS, Objection

VALUES: dict[str, Any] = {
    "flag": st.booleans(),
    "clock": st.sampled_from(["00:00", "01:30", "23:59"]),
    "zone": st.just("UTC"),
    "days": st.sampled_from([["mon"], ["sun", "sat"]]),
    "share": st.sampled_from([0, 0.25, 1]),
}


def value_of(path: str) -> Any:
    """Return a strategy for the good values of a path."""
    field = FIELDS[path]
    if field.kind == "whole":
        return st.integers(int(field.least), int(field.most))
    return VALUES[field.kind]


patches = st.dictionaries(st.sampled_from(sorted(FIELDS)), st.none(), max_size=5).flatmap(
    lambda chosen: st.fixed_dictionaries({path: value_of(path) for path in chosen})
)


def test_the_defaults_are_the_promised_ones() -> None:
    """Names, units and values as users know them."""
    assert fleet_config.resolved() == FleetConfig()
    assert json.loads(fleet_config.nested(fleet_config.plain(FleetConfig()))) == {
        "maxDevices": 1000,
        "updatePolicy": {
            "automatic": True,
            "timeWindow": {
                "start": "02:00",
                "end": "04:00",
                "timeZone": "UTC",
                "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
            },
            "batchSize": 10,
            "failureThreshold": 0.1,
        },
        "certRotation": {"enabled": True, "daysBeforeExpiry": 30, "staggered": True},
        "monitoring": {
            "healthCheckInterval": 300000,
            "metricsInterval": 60000,
            "alertThresholds": {"errorRate": 0.05, "latency": 1000},
        },
    }


def test_a_patch_keeps_the_rest() -> None:
    """`{certRotation: {daysBeforeExpiry: 45}}` changes this one value."""
    config = fleet_config.resolved(
        fleet_config.patched('{"certRotation":{"enabled":false}}',
                             '{"certRotation":{"daysBeforeExpiry":45}}')
    )  # fmt: skip
    assert config.cert_rotation.days_before_expiry == 45
    assert not config.cert_rotation.enabled
    assert config.cert_rotation.staggered
    assert config.update_policy == FleetConfig().update_policy


def test_null_shows_the_inherited_value_again() -> None:
    """For one value and for a whole branch."""
    own = '{"updatePolicy":{"batchSize":3,"timeWindow":{"start":"01:00","end":"05:00"}}}'
    assert fleet_config.patched(own, '{"updatePolicy":{"batchSize":null}}') == (
        '{"updatePolicy":{"timeWindow":{"end":"05:00","start":"01:00"}}}'
    )
    assert fleet_config.patched(own, '{"updatePolicy":null}') == "{}"
    inherited = '{"updatePolicy":{"batchSize":50}}'
    assert fleet_config.resolved(inherited, "{}").update_policy.batch_size == 50


@settings(max_examples=200, deadline=None)
@given(patches, patches)
def test_merging_is_the_last_word_on_each_value(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two patches in a row give what their union gives, and the result reads back the same."""
    first = fleet_config.patched("{}", fleet_config.nested(one))
    both = fleet_config.patched(first, fleet_config.nested(other))
    assert both == fleet_config.nested(one | other)
    assert fleet_config.flatten(both) == one | other
    assert fleet_config.patched(both, both) == both


@settings(max_examples=200, deadline=None)
@given(patches)
def test_a_valid_configuration_survives_the_typed_form(values: dict[str, Any]) -> None:
    """What the typed form says as the user's values gives the same typed form."""
    try:
        config = fleet_config.resolved(fleet_config.nested(values))
    except Objection as error:
        if "start and end are both" not in str(error):
            raise
        return
    assert fleet_config.resolved(fleet_config.nested(fleet_config.plain(config))) == config


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ('{"updatePolicy":{"batchSize":0}}', "updatePolicy.batchSize is 0: expected 1 to 10000"),
        ('{"updatePolicy":{"batchSize":true}}', "batchSize is true: expected a whole number"),
        ('{"updatePolicy":{"batchSize":2.5}}', "batchSize is 2.5: expected a whole number"),
        ('{"updatePolicy":{"failureThreshold":1.5}}', "failureThreshold is 1.5: expected 0 to 1"),
        ('{"updatePolicy":{"failureThreshold":NaN}}', "NaN is no number of JSON"),
        ('{"updatePolicy":{"failureThreshold":"x"}}', "expected a number"),
        ('{"updatePolicy":{"batchsize":3}}', "did you mean updatePolicy.batchSize?"),
        ('{"certRotaton":{}}', "certRotaton: no such name; did you mean certRotation?"),
        ('{"qqqqqqqq":1}', "qqqqqqqq: no such name"),
        ('{"updatePolicy":3}', "updatePolicy is 3: expected an object"),
        ('{"maxDevices":{"a":1}}', "maxDevices is {"),
        ('{"certRotation":{"enabled":"yes"}}', "expected true or false"),
        ('{"updatePolicy":{"timeWindow":{"start":"25:00"}}}', "from 00:00 to 24:00"),
        ('{"updatePolicy":{"timeWindow":{"timeZone":"a b"}}}', "the name of a time zone"),
        ('{"updatePolicy":{"timeWindow":{"days":["mon","mon"]}}}', "each once"),
        ('{"updatePolicy":{"timeWindow":{"days":[]}}}', "expected a list of mon"),
        ('{"updatePolicy":{"timeWindow":{"days":[[]]}}}', "expected a list of mon"),
        ('{"maxDevices":1,"maxDevices":2}', "maxDevices stands twice"),
        (r'{"\ud800":1,"\ud800":2}', r"'\ud800': no such name"),
        ("[1]", "no JSON object"),
        ("{", "no JSON: "),
        ("[" * 16_000, "nested too deeply"),
        (" " * 20_000, "at most 16384"),
        ('{"maxDevices":' + "9" * 5_000 + "}", "no JSON: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_path(patch: str, said: str) -> None:
    """Path, value, limit, unit; the nearest known name; nothing is half accepted."""
    with pytest.raises(Objection) as refusal:
        fleet_config.patched("{}", patch)
    assert said in str(refusal.value)


def test_a_window_needs_two_different_times() -> None:
    """Also where one of the two is inherited."""
    with pytest.raises(Objection, match="00:00 to 24:00"):
        fleet_config.resolved('{"updatePolicy":{"timeWindow":{"end":"02:00"}}}')


def test_a_difference_names_the_paths() -> None:
    """Before and after; None where the value is inherited."""
    before = fleet_config.flatten('{"maxDevices":5}')
    after = fleet_config.flatten('{"certRotation":{"enabled":false}}')
    assert fleet_config.difference(before, after) == [
        ("maxDevices", 5, None),
        ("certRotation.enabled", None, False),
    ]
