"""Draw what the documents take from the code: `python -m docs.draw`, `--check` only compares."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from client import answers, feeds, rights
from configuration.model import Configuration
from docs import draw_configuration
from schemas import codec, events, fleet_events, progress, reasons, topics
from schemas.decisions import DecisionName
from schemas.metrics import METRICS, metric, worker
from streams.core import anomaly, campaign, fleet_config, rotation

HERE = Path(__file__).parent
NAMES = tuple(
    (name, f"`{asked.events}`, `<id>`", record.__name__, "the machine's answer")
    for name, asked, record in (
        ("registry.register", answers.DEVICES, events.DeviceRegistered),
        ("device.tag", answers.DEVICES, events.DeviceTagged),
        ("device.retire", answers.DEVICES, events.RetirementOrdered),
        ("fleets.create", answers.FLEETS, fleet_events.FleetCreated),
        ("fleets.add_device", answers.FLEETS, fleet_events.DeviceAdded),
        ("fleets.remove_device", answers.FLEETS, fleet_events.DeviceRemoved),
        ("fleets.update_config", answers.FLEETS, fleet_events.FleetConfigChanged),
    )
)
"""The calls of client/connection.py that write, and what each writes."""
RIGHTS_BEGIN, RIGHTS_END = "<!-- rights: drawn from code by `make docs` -->", "<!-- end -->"
DRAWN = "<!-- drawn from code by `make docs` -->\n\n"

HEADINGS: dict[str, str] = {
    "worker": "Worker",
    "mqtt bridge": "MQTT bridge",
    "coap bridge": "CoAP bridge",
    "est door": "EST door",
    "issuer": "Issuer",
    "supervisor": "Supervisor",
}
"""The processes of docs/metrics.md."""


def topics_page() -> str:
    """Return docs/topics.md."""
    lines = ["# Topics", "", DRAWN.strip(), ""]
    lines += ["| topic | key | holds | written by | partitions | configuration |"]
    lines += ["|---|---|---|---|---|---|"]
    for one in topics.TOPICS:
        count = "as `device.events`" if one.co_partitioned else "1"
        config = ", ".join(f"`{name}={value}`" for name, value in sorted(one.config.items()))
        lines.append(
            f"| `{one.name}` | {one.key} | {one.holds} | {one.written_by} | {count} | {config} |"
        )
    lines += ["", "All producers partition by murmur2 of the key", "", "## Records", ""]
    lines += ["| family | record | schema id | what |", "|---|---|---|---|"]
    ids = codec.schema_ids()
    for family, kinds in codec.roots().items():
        for kind in kinds:
            doc = (kind.__doc__ or "").strip().splitlines()[0]
            lines.append(f"| {family} | `{kind.__name__}` | {ids[kind.__name__]} | {doc} |")
    lines += ["", "The bytes of a record: a zero byte, the schema id (4 bytes, big endian), Avro."]
    return "\n".join(lines) + "\n"


def glossary_page() -> str:
    """Return docs/glossary.md."""
    lines = ["# Glossary", "", DRAWN.strip(), "", "## Reasons", ""]
    lines += [f"- **{one.value}**: {reasons.SENTENCES[one]}" for one in reasons.Reason]
    lines += ["", "## Progress of an update", ""]
    lines += [
        f"- **{one.value}**, with the outcome `{progress.OUTCOMES[one]}`: {sentence}"
        for one, sentence in progress.SENTENCES.items()
    ]
    lines += ["", "## Records", ""]
    for kinds in codec.roots().values():
        for kind in kinds:
            doc = (kind.__doc__ or "").strip().splitlines()[0]
            lines.append(f"- **{kind.__name__}**: {doc}")
    lines += ["", "## Decisions", ""]
    lines += [f"- **{one.value}**" for one in DecisionName]
    lines += ["", "## Anomaly rules", ""]
    lines += [
        f"- **{one.reason.value}**: {one.severity.value}, raised after {one.raise_after} and "
        f"cleared after {one.clear_after} window(s)" + (", at once" if one.at_once else "")
        for one in anomaly.RULES
    ]
    lines += ["", "## The Python client's names", ""]
    lines += ["| name | topic, key | record | gives |", "|---|---|---|---|"]
    lines += [
        f"| `{one}` | {where} | `{record}` | {gives} |" for one, where, record, gives in NAMES
    ]
    for of, found in (("device", feeds.DEVICE_FEEDS), ("fleet", feeds.FLEET_FEEDS)):
        lines += [
            f'| `{of}.events("{one.name}")` | `{one.topic}`, `{one.prefix}<id>` | '
            f"`{one.record}` | {one.gives} |"
            for one in found.values()
        ]
    return "\n".join(lines) + "\n"


def saga_page() -> str:
    """Return docs/rotation.md: the saga's state diagram, from its table of moves."""
    lines = ["# The rotation saga", "", DRAWN.strip(), "", "```mermaid", "stateDiagram-v2"]
    lines += ["    [*] --> idle"]
    for state, following in rotation.MOVES.items():
        lines += [f"    {_state(state)} --> {_state(one)}" for one in sorted(following)]
    lines += ["```", "", "Every state but `idle` and `abandoned` has a deadline."]
    return "\n".join(lines) + "\n"


def campaign_page() -> str:
    """Return docs/campaign-states.md: a campaign's state diagram, from its table of moves."""
    lines = ["# The states of a campaign", "", DRAWN.strip(), "", "```mermaid", "stateDiagram-v2"]
    lines += ["    [*] --> planned"]
    for state, following in campaign.MOVES.items():
        lines += [f"    {state} --> {one}" for one in sorted(following)]
    ends = sorted({one for every in campaign.MOVES.values() for one in every} - set(campaign.MOVES))
    lines += [f"    {one} --> [*]" for one in ends]
    lines += ["```", "", "[campaigns.md](campaigns.md) says what each state means for the devices."]
    return "\n".join(lines) + "\n"


def configuration_page() -> str:
    """Return docs/fleet-configuration.md: every name, its limits and its default."""
    lines = ["# A fleet's configuration", "", DRAWN.strip(), ""]
    lines += ["A patch is a JSON object with some of these names. It is merged as RFC 7396 says:"]
    lines += ["objects merge, all else replaces, `null` lets the inherited value show again."]
    lines += ["What is not valid is refused whole, with the path, the value and the limit.", ""]
    lines += ["| name | default | allowed | what |", "|---|---|---|---|"]
    for path, one in fleet_config.FIELDS.items():
        default = json.dumps(one.default) if one.kind != "days" else "every day"
        limits = {"flag": "`true`, `false`", "clock": "00:00 to 24:00", "zone": "a zone's name"}
        limits |= {"days": "a list of `mon` to `sun`"}
        allowed = limits.get(one.kind, f"{one.least:,.0f} to {one.most:,.0f}")
        lines.append(f"| `{path}` | {default} | {allowed} | {one.meaning} |")
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """Return docs/metrics.md: every metric of every process."""
    lines = ["# Metrics", "", DRAWN.strip(), ""]
    lines += [
        "Each process answers `GET /metrics` on its own port (`--metrics-port`), in Prometheus'"
    ]
    lines += ["text format. The names are the ones a query uses. No label names a device. Label"]
    lines += [f"`fleet` names the first {metric.FLEETS_MAX} fleets that a worker has seen"]
    lines += [f"(`--metrics-fleets-max`); the others are added up as `{metric.OTHER_FLEETS}`, and"]
    lines += [
        f"`{worker.FLEETS_HIDDEN.name}` counts them. A fleet's gauges come from the one worker"
    ]
    lines += [
        "that has the fleet's row; its sums from its members, at most once per `metricsInterval`."
    ]
    lines += [
        "[operations.md](operations.md) says which to watch, and what to do when an alert fires."
    ]
    for process in get_args(metric.Process):
        lines += ["", f"## {HEADINGS[process]}", ""]
        lines += ["| metric | type | labels | unit | what |", "|---|---|---|---|---|"]
        for one in METRICS:
            if process in one.process:
                labels = ", ".join(f"`{label}`" for label in one.labels)
                lines.append(f"| `{one.name}` | {one.kind} | {labels} | {one.unit} | {one.help} |")
    lines += ["", "Beside these each process has `process_*` and `python_*` of its own."]
    return "\n".join(lines) + "\n"


def kafka_page() -> str:
    """Return docs/kafka.md with the table of rights; all else in it is written by hand."""
    text = (HERE / "kafka.md").read_text()
    before, begin, rest = text.partition(RIGHTS_BEGIN)
    _, end, after = rest.partition(RIGHTS_END)
    lines = "\n".join(rights.table(Configuration()))
    return f"{before}{begin}\n{lines}\n{end}{after}"


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each drawn file and its text."""
    yield HERE / "topics.md", topics_page()
    yield HERE / "glossary.md", glossary_page()
    yield HERE / "rotation.md", saga_page()
    yield HERE / "campaign-states.md", campaign_page()
    yield HERE / "fleet-configuration.md", configuration_page()
    yield HERE / "metrics.md", metrics_page()
    yield HERE / "kafka.md", kafka_page()
    yield HERE / "configuration.md", draw_configuration.page(DRAWN)
    yield (
        HERE.parent / "deploy" / "fleetcert.yaml",
        draw_configuration.example("drawn by `make docs`"),
    )


def main(argv: list[str]) -> int:
    """Write the pages, or with `--check` say which are stale."""
    stale = [path for path, text in pages() if not path.exists() or path.read_text() != text]
    if "--check" in argv:
        for path in stale:
            sys.stderr.write(f"{path.name} is stale: run `make docs`\n")
        return len(stale)
    for path, text in pages():
        path.write_text(text)
    return 0


def _state(name: str) -> str:
    return name.replace("-", "_")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
