"""Draw `schemas/avro/` from the dataclasses: `python -m schemas.draw`.

A changed record gets a new id and keeps its former drawings beside it (`Name.v<id>.avsc`), so
that evolution can be judged against all of them.
"""

import json
import sys

from fastavro.schema import to_parsing_canonical_form

from schemas import codec

IDS_MAX = 1_000
"""Ids of one family. The id of a record that is gone stays taken: its history remains."""


def main() -> int:
    """Write what changed; print each file written."""
    path = codec.AVRO / "ids.json"
    catalogue: dict[str, list[int]] = json.loads(path.read_text()) if path.exists() else {}
    for family, kinds in codec.roots().items():
        folder = codec.AVRO / family
        folder.mkdir(parents=True, exist_ok=True)
        first = codec._ID_FIRST[family]
        taken = [one for ids in catalogue.values() for one in ids if 0 <= one - first < IDS_MAX]
        following = max(taken, default=first - 1) + 1
        for kind in kinds:
            text = json.dumps(codec.avsc(kind), indent=2) + "\n"
            file = folder / f"{kind.__name__}.avsc"
            if file.exists() and kind.__name__ in catalogue and _same_form(file.read_text(), text):
                file.write_text(text)
                continue
            versions = catalogue.setdefault(kind.__name__, [])
            if file.exists() and versions:
                file.rename(folder / f"{kind.__name__}.v{versions[-1]}.avsc")
            versions.append(following)
            following += 1
            file.write_text(text)
            sys.stdout.write(f"{file.relative_to(codec.AVRO.parent.parent)} id {versions[-1]}\n")
    path.write_text(json.dumps(catalogue, indent=2, sort_keys=True) + "\n")
    return 0


def _same_form(one: str, other: str) -> bool:
    """Tell whether two schemas differ in their documentation at most (Avro's canonical form)."""
    forms = [to_parsing_canonical_form(json.loads(text)) for text in (one, other)]
    return bool(forms[0] == forms[1])


if __name__ == "__main__":
    sys.exit(main())
