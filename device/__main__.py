"""The reference device: its first certificate, its life, its updates; and many simulated ones."""

import argparse
import asyncio
import json
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from device import artefacts, provision, slots
from device.agent import Agent
from device.coap.link import COAPS, COAPS_TCP
from device.door import HttpsDoor, door
from device.link import MQTTS
from device.misbehaviour import BEHAVIOURS
from device.observer import Ledger, LedgerObserver
from device.renewal import Denied, Later
from device.simulator import Plan, Simulator
from device.store import InstallRefused, NoIdentity, Store
from device.updates import Updating

EXAMPLES = """examples:
  python -m device init --id lamp-7 --dir lamp-7              key and lamp-7/device.csr
  python -m device adopt --id lamp-7 --dir lamp-7 --cert lamp-7.pem
  python -m device enrol --id lamp-8 --dir lamp-8 --door https://est.example:8443 \\
      --ca service-ca.pem --token-file token              instead: fleetcert device invite lamp-8
  echo '{"celsius": 21.5}' | python -m device run --id lamp-7 --dir lamp-7 \\
      --host broker.example --ca service-ca.pem --report temperature
  python -m device simulate --count 100 --dir fleet --host localhost --port 8883 \\
      --ca service-ca.pem --issuer-cert device-ca.pem --issuer-key device-ca.key \\
      --rate 2 --behave weak-key=0.05 --behave dies-installing=0.1
  python -m device run … --update-key release-1=release.pem --health ./self-check
                                                              takes updates; ends with 3 to reboot
  python -m device slot --id lamp-7 --dir lamp-7              the artefact to run now

SIGTERM and Ctrl-C end it with a clean disconnect; what is kept stays kept for the next run.
exit codes: 0 done or stopped as asked, 1 it cannot go on (one line says why), 2 wrong usage,
3 start it again: an update is to be tried, or was rolled back
"""
REBOOT = 3
PORTS = {MQTTS: 8883, COAPS_TCP: 5684, COAPS: 5684}

Work = Callable[[argparse.Namespace], int]


def main(arguments: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    chosen = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03dZ %(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    logging.Formatter.converter = time.gmtime
    try:
        status: int = chosen.work(chosen)
    except (InstallRefused, NoIdentity, Denied, Later, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


def _init(chosen: argparse.Namespace) -> int:
    print(provision.write_request(chosen.id, chosen.dir))
    return 0


def _adopt(chosen: argparse.Namespace) -> int:
    try:
        certificate = x509.load_pem_x509_certificate(chosen.cert.read_bytes())
    except ValueError as error:
        raise ValueError(f"{chosen.cert} is no certificate in PEM") from error
    made = provision.adopt(chosen.id, chosen.dir, certificate, provisioning=chosen.provisioning)
    print(made.fingerprint)
    return 0


def _enrol(chosen: argparse.Namespace) -> int:
    """Enrol by an invitation's token; ask again for as long as the door says so."""
    at = door(chosen.door, chosen.ca)
    if not isinstance(at, HttpsDoor):
        raise ValueError(f"{chosen.door}: a device enrols over https://")
    token = chosen.token_file.read_text() if chosen.token_file else sys.stdin.readline()
    until = time.monotonic() + chosen.within
    while True:
        try:
            print(provision.enrol(chosen.id, chosen.dir, at, token.strip()).fingerprint)
        except Later as later:
            if time.monotonic() > until:
                raise
            time.sleep(later.seconds or 1.0)
            continue
        return 0


def _run(chosen: argparse.Namespace) -> int:
    return asyncio.run(_run_agent(chosen))


async def _run_agent(chosen: argparse.Namespace) -> int:
    _need_own_identity(chosen.id, chosen.dir)
    scheme = chosen.coap or MQTTS
    ledger = Ledger(chosen.dir / "ledger.jsonl") if chosen.ledger else None
    agent = Agent(
        chosen.id,
        chosen.dir,
        chosen.host,
        chosen.port or PORTS[scheme],
        chosen.ca,
        observer=LedgerObserver(ledger, chosen.id) if ledger else None,
        scheme=scheme,
        renewal_door=door(chosen.renew_at_door, chosen.ca) if chosen.renew_at_door else None,
        updating=_updating(chosen),
    )
    _on_signals(agent.stop)
    running = asyncio.create_task(agent.run())
    lines = asyncio.create_task(_report_lines(agent, chosen.report)) if chosen.report else None
    await running
    if lines is not None:
        lines.cancel()
    if agent.reboots:
        logging.shutdown()
        os._exit(REBOOT)  # a thread may wait for a line; all that counts is durable
    return 0


def _need_own_identity(device_id: str, directory: Path) -> None:
    """Raise ValueError where the folder is another device's: every door would refuse it."""
    held = Store(directory).current().certificate()
    names = [str(one.value) for one in held.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [device_id]:
        told = ", ".join(names) or "nobody"
        raise ValueError(f"{directory} holds the identity of {told}, not of {device_id}")


def _updating(chosen: argparse.Namespace) -> Updating | None:
    """Return how the device updates itself; without a key to trust it does not."""
    keys = {name: artefacts.public_key(path) for name, path in chosen.update_key}
    if chosen.health and not keys:
        raise ValueError("--health is of use with --update-key only: name who signs updates")
    return Updating(keys, tuple(shlex.split(chosen.health))) if keys else None


def _slot(chosen: argparse.Namespace) -> int:
    """Print the artefact to run now, for whatever runs it."""
    path = slots.running(chosen.dir, slots.read(chosen.dir))
    if path is None:
        raise ValueError("nothing is installed: run what the device was shipped with")
    print(path)
    return 0


async def _report_lines(agent: Agent, type: str) -> None:
    """Report each line of standard input, JSON where it is JSON; a thread waits for the lines."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            body = json.loads(line)
        except ValueError:
            body = line.rstrip("\n")
        await agent.room()
        await agent.report(type, body)
    await agent.drained()
    agent.stop()


def _simulate(chosen: argparse.Namespace) -> int:
    return asyncio.run(_run_simulator(chosen))


async def _run_simulator(chosen: argparse.Namespace) -> int:
    ca = None
    if chosen.issuer_cert is not None:
        ca = provision.load_ca(chosen.issuer_cert, chosen.issuer_key)
    plan = Plan(
        chosen.dir,
        chosen.host,
        chosen.port or PORTS[MQTTS],
        chosen.ca,
        chosen.count,
        chosen.rate,
        chosen.seconds,
        chosen.prefix,
        dict(chosen.behave),
        ca,
        chosen.valid_seconds,
        coap_every=chosen.coap_every,
        coap_port=chosen.coap_port,
    )
    simulator = Simulator(plan)
    _on_signals(simulator.stop)
    await simulator.run()
    return 0


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def _named_path(text: str) -> tuple[str, Path]:
    name, mark, path = text.partition("=")
    if not (name and mark and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEYID=FILE")
    return name, Path(path)


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    return name, float(share or "nan")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m device",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _device(commands.add_parser("init", help="make key and CSR"), _init)
    adopt = _device(commands.add_parser("adopt", help="install the first certificate"), _adopt)
    adopt.add_argument("--cert", type=Path, required=True, help="the certificate, PEM")
    adopt.add_argument(
        "--provisioning",
        action="store_true",
        help="it is the maker's, of a CA that the fleet trusts for enrolment (justInTime)",
    )
    enrol = _device(commands.add_parser("enrol", help="get the first one by a token"), _enrol)
    enrol.add_argument("--door", required=True, help="the EST door, https://HOST:8443")
    enrol.add_argument("--ca", type=Path, required=True, help="who signed the door, PEM")
    enrol.add_argument(
        "--token-file", type=Path, help="where the token is; else in a line of standard input"
    )
    enrol.add_argument("--within", type=float, default=60.0, help="seconds to wait for it")
    run = _device(commands.add_parser("run", help="run one device"), _run)
    _broker(run)
    run.add_argument("--report", metavar="TYPE", help="report lines of standard input, then end")
    run.add_argument(
        "--coap",
        choices=[COAPS_TCP, COAPS],
        nargs="?",
        const=COAPS_TCP,
        help="speak CoAP: coaps+tcp (where nothing is named), or coaps over UDP with DTLS 1.3",
    )
    run.add_argument(
        "--renew-at-door",
        metavar="ADDRESS",
        help="renew there when the certificate nears its end and no order came: "
        "https://HOST:8443, coaps+tcp://HOST:5685 or coaps://HOST:5685",
    )
    run.add_argument("--ledger", action="store_true", help="write DIR/ledger.jsonl")
    _updates(run)
    _device(commands.add_parser("slot", help="print the artefact to run now"), _slot)
    _simulation(commands.add_parser("simulate", help="run many devices"))
    return parser


def _device(parser: argparse.ArgumentParser, work: Work) -> argparse.ArgumentParser:
    parser.add_argument("--id", required=True, help="the device id")
    parser.add_argument("--dir", type=Path, required=True, help="where keys and outbox are")
    parser.set_defaults(work=work)
    return parser


def _broker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="localhost", help="of the broker or bridge; localhost")
    parser.add_argument("--port", type=int, help="8883, over CoAP 5684")
    parser.add_argument(
        "--ca",
        type=Path,
        required=True,
        help="who signed the broker, PEM; on a local stack var/stack/pki/service-ca/ca.pem",
    )


def _updates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--update-key",
        type=_named_path,
        action="append",
        default=[],
        metavar="KEYID=FILE",
        help="take updates signed by this public key, PEM; the agent ends with 3 to reboot",
    )
    parser.add_argument(
        "--health",
        metavar="COMMAND",
        help="the self check of a new version, FLEETCERT_ARTEFACT names it; not 0: roll back",
    )


def _simulation(parser: argparse.ArgumentParser) -> None:
    _broker(parser)
    parser.add_argument("--count", type=int, required=True, help="how many devices")
    parser.add_argument("--dir", type=Path, required=True, help="a directory for all of them")
    parser.add_argument("--rate", type=float, default=1.0, help="events per second and device")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long; 0: until SIGTERM")
    parser.add_argument("--prefix", default="sim", help="of the device ids")
    parser.add_argument(
        "--behave",
        type=_share,
        action="append",
        default=[],
        metavar="NAME=SHARE",
        help=f"a share of the devices misbehaves: {', '.join(BEHAVIOURS)}",
    )
    parser.add_argument("--issuer-cert", type=Path, help="device CA, for devices without identity")
    parser.add_argument("--issuer-key", type=Path, help="its key, PEM")
    parser.add_argument("--valid-seconds", type=int, default=90 * 86_400)
    parser.add_argument("--coap-every", type=int, default=0, help="each N-th speaks CoAP; 0: none")
    parser.add_argument("--coap-port", type=int, default=5684, help="of the CoAP bridge")
    parser.set_defaults(work=_simulate)


if __name__ == "__main__":
    sys.exit(main())
