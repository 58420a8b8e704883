"""What an endpoint shows: samples by name and labels.

Not by the client library's parser: that one gives every counter a `_total`.
"""

import re
import urllib.request
from collections.abc import Mapping

TIMEOUT_SECONDS = 5.0
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Scrape:
    """One answer of an endpoint."""

    def __init__(self, text: str) -> None:
        lines = text.splitlines()
        self.kinds = dict(one.split(" ")[2:4] for one in lines if one.startswith("# TYPE "))
        self.helps = dict(one.split(" ", 3)[2:4] for one in lines if one.startswith("# HELP "))
        self._samples: list[tuple[str, dict[str, str], float]] = []
        for one in lines:
            if not one.startswith("#"):
                found = SAMPLE.match(one)
                assert found is not None, one
                labels = dict(LABEL.findall(found[2] or ""))
                self._samples.append((found[1], labels, float(found[3])))

    @property
    def names(self) -> set[str]:
        """The names of all samples."""
        return {name for name, _, _ in self._samples}

    def values(self, name: str, /, **labels: str) -> list[float]:
        """Return the samples of a name that have these labels."""
        return [
            value
            for found, there, value in self._samples
            if found == name and labels.items() <= there.items()
        ]

    def total(self, name: str, /, **labels: str) -> float:
        """Return the sum of them."""
        return sum(self.values(name, **labels))

    def by(self, name: str, label: str, /, **labels: str) -> Mapping[str, float]:
        """Return the sums of a name by one label, of the samples that have these labels."""
        sums: dict[str, float] = {}
        for found, there, value in self._samples:
            if found == name and labels.items() <= there.items():
                key = there.get(label, "")
                sums[key] = sums.get(key, 0.0) + value
        return sums


def scrape(port: int, host: str = "127.0.0.1") -> Scrape:
    """Ask an endpoint."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=TIMEOUT_SECONDS) as answer:
        return Scrape(answer.read().decode())
