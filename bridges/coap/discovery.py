"""What there is: `/.well-known/core` in link format with filters (RFC 6690). Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CONTENT_FORMAT = 40
JSON, CBOR = 50, 60


@dataclass(frozen=True, slots=True)
class Link:
    """One resource: its address, resource type, content formats, and whether it is observable."""

    href: str
    rt: str
    formats: tuple[int, ...]
    observable: bool = False

    def __str__(self) -> str:
        """Return the link in link format."""
        formats = " ".join(map(str, self.formats))
        ct = f'"{formats}"' if len(self.formats) > 1 else formats
        return f'<{self.href}>;rt="{self.rt}";ct={ct}' + (";obs" if self.observable else "")

    def under(self, base: str) -> "Link":
        """Return the link with an absolute address."""
        return Link(base + self.href, self.rt, self.formats, self.observable)

    def matches(self, name: str, value: str) -> bool:
        """Tell whether an attribute has this value, or begins so before `*` (section 4.1)."""
        found: tuple[str, ...] = {
            "href": (self.href,),
            "rt": (self.rt,),
            "ct": tuple(map(str, self.formats)),
            "obs": ("",) if self.observable else (),
        }.get(name, ())
        if value.endswith("*"):
            return any(one.startswith(value[:-1]) for one in found)
        return value in found


LINKS = (
    Link("/events", "fleetcert.events", (JSON, CBOR)),
    Link("/commands", "fleetcert.commands", (JSON, CBOR), observable=True),
    Link("/replies", "fleetcert.replies", (JSON, CBOR)),
)


def document(
    query: Iterable[str], bases: Iterable[str] = ("",), of: Sequence[Link] = LINKS
) -> bytes:
    """Return the document of the links that match every filter of the query.

    `bases` are what the addresses begin with: nothing for the endpoint that is asked itself.
    """
    links = [one.under(base) for base in bases for one in of]
    for part in query:
        name, _, value = part.partition("=")
        links = [one for one in links if one.matches(name, value)]
    return ",".join(map(str, links)).encode()
