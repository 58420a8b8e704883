"""`python -m pki issuer`: the issuer's process; `python -m pki init`: create the authorities."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import structlog

from pki import authority, issuer_process

EXAMPLES = """examples:
  python -m pki init --pki var/pki
  python -m pki issuer --pki var/pki --bootstrap 127.0.0.1:9092
"""


def main(argv: list[str] | None = None) -> int:
    """Read the options and do what they say."""
    parser = argparse.ArgumentParser(
        prog="python -m pki",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("role", choices=["init", "issuer"])
    parser.add_argument("--pki", type=Path, default=Path("var/pki"), help="the authorities' folder")
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", help="Kafka's host:port")
    parser.add_argument("--metrics-port", type=int, default=0, help="0: no endpoint")
    parser.add_argument("--lifetime-days", type=float, default=90.0)
    options = parser.parse_args(argv)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        if options.role == "init":
            authority.create(options.pki, now=datetime.now(UTC))
            sys.stdout.write(f"created the authorities in {options.pki}\n")
        else:
            issuer_process.run(
                issuer_process.Settings(
                    options.bootstrap, options.pki, options.metrics_port, options.lifetime_days
                )
            )
    except authority.AuthorityError as error:
        sys.stderr.write(f"pki: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
