"""`python -m pki`: make the authorities, issue service certificates, run the issuer."""

import argparse
import contextlib
import datetime
import os
import signal
import sys
from pathlib import Path

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pki import authority, issuer, issuer_process, ledger, private
from pki.meter import PrometheusMeter
from protocols.exposition import Endpoint, Registry
from schemas import topics

DAY = datetime.timedelta(days=1)
HOUR = datetime.timedelta(hours=1)
HOUR_SECONDS = 3600.0
EXAMPLES = """examples:
  python -m pki init --pki var/pki
  python -m pki service --pki var/pki --name broker --san broker.example --out services
  python -m pki issuer --pki var/pki --bootstrap 127.0.0.1:9092 --issuer-id issuer-0
  python -m pki issuer --pki var/pki --passphrase-file /run/credentials/fleetcert/passphrase

exit codes: 0 stopped as asked, 1 it cannot go on (the message says why), 2 wrong usage
"""


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
        topics.WrongTopics,
    ) as error:
        sys.stderr.write(f"pki: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pki",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    service.add_argument(
        "--registration", action="store_true", help="for a door of EST: it may vouch for devices"
    )
    service.add_argument("--out", type=Path, required=True, help="folder for NAME.pem, NAME.key")
    run = commands.add_parser("issuer", help="answer certificate requests until SIGTERM")
    _issuer_options(run)
    for command in (init, service, run):
        command.add_argument("--pki", type=Path, default=Path("var/pki"), help="the PKI's folder")
        command.add_argument(
            "--passphrase-file", type=Path, help="of the CA keys; without, PKI/passphrase"
        )
    return parser


def _issuer_options(run: argparse.ArgumentParser) -> None:
    limits, policy = ledger.Limits(), issuer.Policy()
    run.add_argument("--bootstrap", default="127.0.0.1:9092", help="Kafka's host:port")
    run.add_argument("--issuer-id", default=f"issuer-{os.getpid()}", help="keeps its place")
    run.add_argument("--session-timeout-seconds", type=float, default=6.0)
    run.add_argument("--metrics-port", type=int, default=0, help="0: no metrics")
    run.add_argument("--metrics-host", default="127.0.0.1", help="who may ask: this machine")
    run.add_argument("--lifetime-days", type=float, default=policy.lifetime / DAY)
    run.add_argument("--grace-days", type=float, default=policy.grace / DAY)
    run.add_argument("--crl-refresh-hours", type=float, default=limits.crl_refresh / HOUR)
    run.add_argument("--crl-validity-hours", type=float, default=limits.crl_validity / HOUR)
    run.add_argument("--fleet-burst", type=float, default=limits.fleet.burst)
    run.add_argument("--fleet-per-second", type=float, default=limits.fleet.per_second)
    run.add_argument("--device-burst", type=float, default=limits.device.burst)
    run.add_argument(
        "--device-per-hour", type=float, default=limits.device.per_second * HOUR_SECONDS
    )


def _init(options: argparse.Namespace) -> None:
    now = datetime.datetime.now(datetime.UTC)
    authority.create(
        options.pki, now=now, passphrase=_passphrase(options), exclude_dns=options.exclude_dns
    )
    sys.stdout.write(f"made {options.pki}; keep {options.pki / 'root'} offline\n")


def _service(options: argparse.Namespace) -> None:
    service_ca = authority.load_service(options.pki, _passphrase(options))
    now = datetime.datetime.now(datetime.UTC)
    certificate, key = authority.issue_service(
        service_ca,
        options.name,
        options.san,
        now=now,
        days=options.days,
        registration=options.registration,
    )
    private.directory(options.out)
    private.write(options.out / f"{options.name}.key", key)
    private.write(options.out / f"{options.name}.pem", certificate, 0o644)


def _issuer(options: argparse.Namespace) -> None:
    private.harden()
    with contextlib.suppress(KafkaException):
        topics.check(AdminClient({"bootstrap.servers": options.bootstrap}).list_topics)
    loaded = authority.load(options.pki, _passphrase(options))
    policy = issuer.Policy(
        lifetime=options.lifetime_days * DAY,
        grace=options.grace_days * DAY,
        door_anchors=(loaded.service.certificate,),
    )
    registry = Registry()
    meter = PrometheusMeter(registry)
    if options.metrics_port:
        Endpoint(registry, options.metrics_port, options.metrics_host)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stop.append(received))
    settings = issuer_process.Settings(
        options.bootstrap,
        policy,
        _limits(options, policy),
        options.issuer_id,
        options.session_timeout_seconds,
    )
    issuer_process.IssuerProcess(loaded, settings, meter).run(lambda: bool(stop))


def _limits(options: argparse.Namespace, policy: issuer.Policy) -> ledger.Limits:
    return ledger.Limits(
        fleet=ledger.Rate(options.fleet_burst, options.fleet_per_second),
        device=ledger.Rate(options.device_burst, options.device_per_hour / HOUR_SECONDS),
        crl_refresh=options.crl_refresh_hours * HOUR,
        crl_validity=options.crl_validity_hours * HOUR,
        crl_keep=max(ledger.Limits().crl_keep, policy.grace + 30 * DAY),
    )


def _passphrase(options: argparse.Namespace) -> bytes | None:
    """Return what the file holds: an argument or variable would show in the process list."""
    if options.passphrase_file is None:
        return None
    try:
        return private.read(options.passphrase_file).strip()
    except (OSError, ValueError) as error:
        raise authority.AuthorityUnreadable(f"passphrase: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
