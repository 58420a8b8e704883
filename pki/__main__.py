"""`python -m pki`: make the authorities, issue service certificates, run the issuer."""

import argparse
import contextlib
import datetime
import os
import signal
import sys
from functools import partial
from pathlib import Path

import structlog
from confluent_kafka import KafkaException

from configuration import look
from configuration import options as shared
from configuration.model import Configuration, Issuer
from configuration.source import InvalidConfiguration
from pki import anchors, authority, issuer, issuer_process, ledger, private
from pki.meter import PrometheusMeter
from protocols.exposition import Endpoint, Registry
from schemas import topics

DAY = datetime.timedelta(days=1)
HOUR = datetime.timedelta(hours=1)
HOUR_SECONDS = 3600.0
FOLDER = {"--pki": "issuer.pki", "--passphrase-file": "issuer.passphraseFile"}
OPTIONS = FOLDER | {
    "--bootstrap": "kafka.bootstrap",
    "--issuer-id": "issuer.id",
    "--session-timeout-seconds": "kafka.sessionTimeout",
    "--metrics-port": "metrics.port",
    "--metrics-host": "metrics.host",
    "--lifetime-days": "issuer.lifetimeDays",
    "--grace-days": "issuer.graceDays",
    "--crl-refresh-hours": "issuer.crlRefreshHours",
    "--crl-validity-hours": "issuer.crlValidityHours",
    "--fleet-burst": "issuer.fleetBurst",
    "--fleet-per-second": "issuer.fleetPerSecond",
    "--device-burst": "issuer.deviceBurst",
    "--device-per-hour": "issuer.devicePerHour",
    "--provisioning-ca": "iot.security.provisioning.ca",
}
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
        issues = options.command == "issuer"
        found = shared.read(options, OPTIONS if issues else FOLDER, "issuer" if issues else None)
        commands[options.command](options, found.configuration)
    except (
        InvalidConfiguration,
        authority.AuthorityExists,
        authority.AuthorityUnreadable,
        issuer_process.IssuerStopped,
        topics.WrongTopics,
        look.Refused,
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
    service.add_argument(
        "--registrar", action="store_true", help="for an operator: may order first certificates"
    )
    service.add_argument("--out", type=Path, required=True, help="folder for NAME.pem, NAME.key")
    run = commands.add_parser("issuer", help="answer certificate requests until SIGTERM")
    for command, names in ((init, FOLDER), (service, FOLDER), (run, OPTIONS)):
        shared.add(command, names)
    return parser


def _init(options: argparse.Namespace, found: Configuration) -> None:
    now, folder = datetime.datetime.now(datetime.UTC), Path(found.issuer.pki)
    authority.create(
        folder, now=now, passphrase=_passphrase(found.issuer), exclude_dns=options.exclude_dns
    )
    sys.stdout.write(f"made {folder}; keep {folder / 'root'} offline\n")


def _service(options: argparse.Namespace, found: Configuration) -> None:
    service_ca = authority.load_service(Path(found.issuer.pki), _passphrase(found.issuer))
    now = datetime.datetime.now(datetime.UTC)
    certificate, key = authority.issue_service(
        service_ca,
        options.name,
        options.san,
        now=now,
        days=options.days,
        client=not options.registrar,
        server=not options.registrar,
        registration=options.registration,
        registrar=options.registrar,
    )
    private.directory(options.out)
    private.write(options.out / f"{options.name}.key", key)
    private.write(options.out / f"{options.name}.pem", certificate, 0o644)


def _issuer(_options: argparse.Namespace, found: Configuration) -> None:
    private.harden()
    with contextlib.suppress(KafkaException):
        cluster = found.cluster
        topics.check(partial(look.list_topics, cluster), cluster.named)
    loaded = authority.load(Path(found.issuer.pki), _passphrase(found.issuer))
    registry = Registry()
    meter = PrometheusMeter(registry)
    if found.metrics.port:
        Endpoint(registry, found.metrics.port, found.metrics.host)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stop.append(received))
    process = issuer_process.IssuerProcess(loaded, _settings(found, loaded), meter)
    process.run(lambda: bool(stop))


def _settings(
    found: Configuration, loaded: authority.Authority | None = None
) -> issuer_process.Settings:
    """Return the issuer's part of the configuration."""
    own = found.issuer
    policy = issuer.Policy(
        lifetime=own.lifetime_days * DAY,
        grace=own.grace_days * DAY,
        door_anchors=(loaded.service.certificate,) if loaded else (),
        provisioning_anchors=anchors.named(found.iot.security.provisioning.ca),
    )
    limits = ledger.Limits(
        fleet=ledger.Rate(own.fleet_burst, own.fleet_per_second),
        device=ledger.Rate(own.device_burst, own.device_per_hour / HOUR_SECONDS),
        crl_refresh=own.crl_refresh_hours * HOUR,
        crl_validity=own.crl_validity_hours * HOUR,
        crl_keep=max(ledger.Limits().crl_keep, policy.grace + 30 * DAY),
    )
    return issuer_process.Settings(
        found.cluster,
        policy,
        limits,
        own.id or f"issuer-{os.getpid()}",
        found.kafka.session_timeout,
    )


def _passphrase(own: Issuer) -> bytes | None:
    """Return what the file holds: an argument or variable would show in the process list."""
    if own.passphrase_file is None:
        return None
    try:
        return private.read(Path(own.passphrase_file)).strip()
    except (OSError, ValueError) as error:
        raise authority.AuthorityUnreadable(f"passphrase: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
