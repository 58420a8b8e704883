"""PEM of the configuration as files: what is said may be a path or the text itself."""

from pathlib import Path

from configuration.fields import PEM
from configuration.iot import AdapterTls
from configuration.source import unusable


def identity(tls: AdapterTls, section: str, folder: Path) -> tuple[Path, Path, Path]:
    """Return a door's certificate, its key and the CAs of its devices; text is kept in `folder`.

    Raises InvalidConfiguration where they are missing.
    """
    if tls.cert is None or tls.private_key is None:
        raise unusable(f"{section}.tls", "cert, key and ca are missing: TLS is mutual")
    cert, key = (
        kept(folder / "cert.pem", tls.cert),
        kept(folder / "key.pem", tls.private_key),
    )
    return cert, key, kept(folder / "ca.pem", *tls.ca)


def kept(target: Path, *said: str) -> Path:
    """Return the one file that is named, or one of all that is said, which only we may read."""
    if len(said) == 1 and PEM not in said[0]:
        return Path(said[0])
    target.touch(0o600)
    target.write_text("\n".join(one if PEM in one else Path(one).read_text() for one in said))
    return target
