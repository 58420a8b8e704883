"""`python -m pki`: make the authorities, issue service certificates, run the issuer."""

import argparse
import datetime
import signal
import sys
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from pki import authority, issuer, issuer_process, ledger, private
from pki.meter import PrometheusMeter

DAY = datetime.timedelta(days=1)


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the arguments name; return the exit code."""
    options = _parser().parse_args(arguments)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    commands = {"init": _init, "service": _service, "issuer": _issuer}
    try:
        commands[options.command](options)
    except (
        authority.AuthorityExists,
        authority.AuthorityUnreadable,
        issuer_process.IssuerStopped,
    ) as error:
        sys.stderr.write(f"pki: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pki", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="make the root, the device CA and the service CA")
    init.add_argument(
        "--exclude-dns",
        action="store_true",
        help="forbid the device CA every DNS name: no device id may have a dot then",
    )
    service = commands.add_parser("service", help="issue a certificate for a broker or bridge")
    service.add_argument("--name", required=True)
    service.add_argument("--san", action="append", default=[], help="DNS name or IP address")
    service.add_argument("--days", type=int, default=authority.SERVICE_DAYS)
    service.add_argument("--out", type=Path, required=True, help="folder for NAME.pem, NAME.key")
    run = commands.add_parser("issuer", help="answer certificate requests until SIGTERM")
    run.add_argument("--bootstrap", default="127.0.0.1:9092", help="Kafka's host:port")
    run.add_argument("--metrics-port", type=int, default=0, help="0: no metrics")
    run.add_argument("--metrics-host", default="127.0.0.1", help="who may ask: this machine")
    run.add_argument("--lifetime-days", type=float, default=90.0)
    run.add_argument("--grace-days", type=float, default=30.0)
    for command in (init, service, run):
        command.add_argument("--pki", type=Path, default=Path("var/pki"), help="the PKI's folder")
    return parser


def _init(options: argparse.Namespace) -> None:
    now = datetime.datetime.now(datetime.UTC)
    authority.create(options.pki, now=now, exclude_dns=options.exclude_dns)
    sys.stdout.write(f"made {options.pki}; keep {options.pki / 'root'} offline\n")


def _service(options: argparse.Namespace) -> None:
    loaded = authority.load(options.pki)
    now = datetime.datetime.now(datetime.UTC)
    certificate, key = authority.issue_service(
        loaded, options.name, options.san, now=now, days=options.days
    )
    private.directory(options.out)
    private.write(options.out / f"{options.name}.key", key)
    private.write(options.out / f"{options.name}.pem", certificate, 0o644)


def _issuer(options: argparse.Namespace) -> None:
    loaded = authority.load(options.pki)
    policy = issuer.Policy(lifetime=options.lifetime_days * DAY, grace=options.grace_days * DAY)
    limits = ledger.Limits(crl_keep=max(ledger.Limits().crl_keep, policy.grace + 30 * DAY))
    registry = CollectorRegistry()
    meter = PrometheusMeter(registry)
    if options.metrics_port:
        start_http_server(options.metrics_port, options.metrics_host, registry)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stop.append(received))
    settings = issuer_process.Settings(options.bootstrap, policy, limits)
    issuer_process.IssuerProcess(loaded, settings, meter).run(lambda: bool(stop))


if __name__ == "__main__":
    sys.exit(main())
