"""The end of the demo: judge the evidence, print the tables of proofs, write the report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.demo import proofs
from client.demo.fleet import Member
from client.demo.picture import BAD, GOOD, WARNING
from client.demo.proofs import Evidence, Proof
from client.show import sentence
from schemas.decisions import DecisionName

FIGURES = 8
"""Characters of a fingerprint and a digest that the tables show."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the demo has shown."""

    proofs: list[Proof]
    missing: list[str]
    lost: int
    duplicates: int
    wronged: list[str]
    evidence: Evidence
    members: list[Member]

    @property
    def replay_identical(self) -> bool:
        """Tell whether folding the history again gave every row, byte for byte."""
        verdicts = self.evidence.verdicts
        return bool(verdicts) and all(one.identical for one in verdicts)

    @property
    def holds(self) -> bool:
        """Tell whether every proof holds."""
        proven = all(one.holds for one in self.proofs)
        sound = not (self.missing or self.lost or self.duplicates or self.wronged)
        return proven and sound and self.replay_identical and self.evidence.crl_signed


def judge(evidence: Evidence, members: list[Member]) -> Judgement:
    """Judge what was gathered."""
    return Judgement(
        [proofs.prove(evidence, one) for one in members if one.should_rotate],
        proofs.missing(evidence, members),
        proofs.losses(evidence),
        proofs.duplicates(evidence),
        proofs.wronged(evidence, members),
        evidence,
        members,
    )


def report(judged: Judgement) -> dict[str, object]:
    """Return what `report.json` says; `seconds` is added by whoever took the time."""
    evidence, rows = judged.evidence, judged.evidence.rows.values()
    decisions = evidence.decisions
    return {
        "devices": len(rows),
        "rotated": sum(one.holds for one in judged.proofs),
        "proven": sum(row.rotations > 0 for row in rows),
        "retired": sum(one.closed_offset >= 0 for row in rows for one in row.certificates),
        "refused": sum(one.name == DecisionName.EVENT_REFUSED for one in decisions),
        "events_acknowledged": len(evidence.recorded),
        "events_lost": judged.lost,
        "duplicate_effects": judged.duplicates,
        "honest_refused": judged.wronged,
        "replay_identical": judged.replay_identical,
        "crl_signed": evidence.crl_signed,
        "missing": judged.missing,
        "alerts": sorted(f"{device}: {reason}" for device, reason in evidence.alerts()),
        "abandoned": sorted(f"{device}: {reason}" for device, reason in evidence.failures()),
        "misbehaviour": {
            one.device_id: {"behaviour": one.behaviour, "answered_by": _answers(evidence, one)}
            for one in judged.members
            if one.behaviour != "honest"
        },
        "proofs": [asdict(one) | {"holds": one.holds} for one in judged.proofs],
        "replay": [asdict(one) for one in evidence.verdicts],
        "proofs_hold": judged.holds,
    }


def draw(judged: Judgement, rows_max: int | None = None) -> RenderableType:
    """Draw the tables; of the proofs at most `rows_max`, the misbehaving devices first."""
    return Group(_proofs(judged.proofs, rows_max), _misbehaviour(judged), _sums(judged))


def _answers(evidence: Evidence, member: Member) -> list[str]:
    told = evidence.alerts() | evidence.failures()
    return sorted(reason for device_id, reason in told if device_id == member.device_id)


def _table(title: str, *columns: str) -> Table:
    drawn = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_style="dim",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in columns:
        drawn.add_column(name, no_wrap=name != "what it means", header_style="dim")
    return drawn


def _proofs(all_proofs: Sequence[Proof], rows_max: int | None) -> RenderableType:
    drawn = _table(
        "Proofs: the new certificate was used, then the old one was closed for good",
        *("device", "behaviour", "old", "new", "first use", "closed", "after", "CRL", ""),
    )
    shown = all_proofs if rows_max is None else all_proofs[:rows_max]
    for one in shown:
        drawn.add_row(
            one.device_id,
            one.behaviour,
            Text(one.old[:FIGURES], "dim"),
            Text(one.new[:FIGURES], GOOD),
            f"{one.partition}/{one.first_used_offset}",
            f"{one.partition}/{one.closed_offset}",
            f"{one.refused_after} refused" if one.refused_after else "",
            "listed" if one.in_crl else Text("ABSENT", BAD),
            Text("holds", GOOD) if one.holds else Text("FAILS", BAD),
        )
    hidden = all_proofs[len(shown) :]
    if hidden:
        holding = sum(one.holds for one in hidden)
        drawn.caption = f"and {len(hidden)} more devices, of which {holding} hold"
    return drawn


def _misbehaviour(judged: Judgement) -> RenderableType:
    drawn = _table(
        "Misbehaviour, and what the history says of it",
        *("device", "behaviour", "answered by", "what it means"),
    )
    for one in judged.members:
        if one.behaviour == "honest":
            continue
        answers = _answers(judged.evidence, one)
        first = answers[0] if answers else ""
        meaning = sentence(first) if first else "Rotated all the same: see its proof."
        drawn.add_row(one.device_id, one.behaviour, Text(", ".join(answers), WARNING), meaning)
    return drawn


def _sums(judged: Judgement) -> RenderableType:
    evidence = judged.evidence
    grid = Table.grid(padding=(0, 2))
    lines = [
        (
            not judged.lost,
            f"{len(evidence.recorded):,} events were acknowledged to devices as recorded, "
            f"{judged.lost} of them are lost",
        ),
        (not judged.duplicates, f"{judged.duplicates} effects happened twice"),
        (not judged.wronged, f"{len(judged.wronged)} events of honest devices were refused"),
        (
            evidence.crl_signed,
            f"the revocation list is signed by the device CA, {len(evidence.serials)} entries",
        ),
        *(
            (
                one.identical,
                f"replay of partition {one.partition}: {one.events:,} events, {one.rows} rows, "
                f"digest {one.live_digest[:16]}, "
                + ("identical" if one.identical else f"DIFFERENT: {one.difference}"),
            )
            for one in evidence.verdicts
        ),
        *((False, line) for line in (*judged.missing, *judged.wronged)),
    ]
    for holds, line in lines:
        grid.add_row(Text(" ✓" if holds else " ✗", GOOD if holds else BAD), line)
    return grid
