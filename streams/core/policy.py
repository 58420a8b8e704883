"""Policies: what a machine accepts as one, so that no policy can make a step raise.

Rules: spans are never negative, some are never zero, and none is longer than a century: sums of an
instant and a span stay within 64 bits, and every wait is a wait.
"""

from dataclasses import fields

from schemas.pending import MODES
from schemas.states import Policy

SPAN_MAX_MS = 100 * 365 * 86_400_000
DAYS_MAX = 36_500
ATTEMPTS_MAX = 100

NAMED_LIMITS: dict[str, tuple[int, int]] = {
    "days_before_expiry": (0, DAYS_MAX),
    "stagger_ms": (0, SPAN_MAX_MS),
    "grace_ms": (0, SPAN_MAX_MS),
    "attempts_max": (1, ATTEMPTS_MAX),
    "anomaly_detection": (0, 1),
}
"""The least and the most of each figure; a span that is not named here is at least 1."""
_SPAN = (1, SPAN_MAX_MS)


def objection(policy: Policy) -> str:
    """Return what is wrong with the policy, empty where nothing is."""
    if policy.just_in_time not in MODES:
        return f"just_in_time is {str(policy.just_in_time)[:40]!r}, not {', '.join(MODES)}"
    for one in fields(policy):
        if one.name == "just_in_time":
            continue
        least, most = NAMED_LIMITS.get(one.name, _SPAN)
        value = getattr(policy, one.name)
        if not least <= value <= most:
            return f"{one.name} is {value}, not within {least} to {most}"
    return ""
