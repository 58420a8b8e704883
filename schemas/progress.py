"""How far a device is with an update: a closed list of words, told with the answer to its command.

    downloading → verified → installing → rebooting → done, failed, rolled-back

A word never goes back: one that says no more than was known changes nothing, so words that come
twice, late or in another order are harmless, and any of them may be left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Progress(StrEnum):
    """One sentence each; the glossary is drawn from SENTENCES."""

    DOWNLOADING = "downloading"
    VERIFIED = "verified"
    INSTALLING = "installing"
    REBOOTING = "rebooting"
    DONE = "done"
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"


SENTENCES: Mapping[Progress, str] = {
    Progress.DOWNLOADING: "The device fetches the artefact.",
    Progress.VERIFIED: "Its size, digest and signature are right.",
    Progress.INSTALLING: "It is written beside what runs.",
    Progress.REBOOTING: "The device starts it, on trial.",
    Progress.DONE: "It runs, is healthy and stays.",
    Progress.FAILED: "It was not started; what ran before runs on.",
    Progress.ROLLED_BACK: "It was started and was not healthy; what ran before runs again.",
}
OUTCOMES: Mapping[Progress, str] = {
    Progress.DOWNLOADING: "accepted",
    Progress.VERIFIED: "accepted",
    Progress.INSTALLING: "accepted",
    Progress.REBOOTING: "accepted",
    Progress.DONE: "done",
    Progress.FAILED: "failed",
    Progress.ROLLED_BACK: "failed",
}
"""The outcome that each word stands beside in an answer."""
IN_WORK = tuple(one for one, outcome in OUTCOMES.items() if outcome == "accepted")
"""The words of an update that has not ended, in their order."""
_PLACES = {one.value: place for place, one in enumerate(IN_WORK)}


@dataclass(frozen=True, slots=True)
class ProgressCounts:
    """Devices in work by the last word of each; those that said none are in none of them."""

    downloading: int = 0
    verified: int = 0
    installing: int = 0
    rebooting: int = 0


NO_PROGRESS = ProgressCounts()


def is_further(said: str, known: str) -> bool:
    """Tell whether a word says more of an update in work than what was known, empty for nothing."""
    return said in _PLACES and _PLACES[said] > _PLACES.get(known, -1)


def objection(outcome: str, progress: str) -> str:
    """Return what is wrong with a word beside an outcome, empty where nothing is."""
    if not progress:
        return ""
    if progress not in set(Progress):
        return f"progress is one of {', '.join(Progress)}"
    wanted = OUTCOMES[Progress(progress)]
    return "" if outcome == wanted else f"progress {progress} comes with the outcome {wanted}"
