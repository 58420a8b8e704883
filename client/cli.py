"""The command line `fleetcert`.

Exit codes: 0 done, 1 what was asked cannot be done (the message says what to do next), 2 wrong
usage, 4 a verification found a difference, 130 ended by Ctrl-C, 141 the reader of a pipe left.
"""

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from confluent_kafka import KafkaException

from client import terminal
from client.commands import (
    admissions,
    campaigns,
    configuration,
    devices,
    events,
    fleets,
    invitations,
    kafka,
    machine,
    registry,
    schemas,
    snapshots,
)
from client.commands.options import examples
from client.fleet import FleetError
from client.local import commands as local
from configuration.source import InvalidConfiguration
from streams.engine.failure import EngineFailed

EXIT_FAILED, EXIT_INTERRUPTED, EXIT_PIPE = 1, 130, 141
EXIT_CODES = """

Exit codes:
  0  done
  1  what was asked cannot be done; the message says what to do next
  2  wrong usage
  4  a verification found a difference
  130  ended by Ctrl-C"""
STACK, FLEET, HISTORY = "The local stack", "The fleet", "The history"

app = typer.Typer(
    name="fleetcert",
    epilog=examples("up", "device list --json", "events tail --since 10m", "replay --verify")
    + EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
pki = typer.Typer(help="Make the authorities, sign first requests.", no_args_is_help=True)

local.add_to(app, pki, STACK)
app.add_typer(pki, name="pki", rich_help_panel=STACK)
app.add_typer(configuration.app, name="config", rich_help_panel=STACK)
app.add_typer(kafka.app, name="kafka", rich_help_panel=STACK)
assert admissions.app is invitations.app is registry.app  # one group, told in several files
app.add_typer(registry.app, name="device", rich_help_panel=FLEET)
app.add_typer(fleets.app, name="fleet", rich_help_panel=FLEET)
app.add_typer(campaigns.app, name="campaign", rich_help_panel=FLEET)
app.command(epilog=examples("alerts", "alerts --json | jq -r .subject"), rich_help_panel=FLEET)(
    devices.alerts
)
app.add_typer(machine.app, name="policy", rich_help_panel=FLEET)
app.add_typer(events.app, name="events", rich_help_panel=HISTORY)
app.command(epilog=examples("replay --verify", "replay --verify --json"), rich_help_panel=HISTORY)(
    machine.replay
)
app.add_typer(schemas.app, name="schemas", rich_help_panel=HISTORY)
snapshots.add_to(app, HISTORY)


def _version(asked: bool) -> None:
    if asked:
        terminal.say(f"fleetcert {version('fleetcert')}")
        raise typer.Exit


@app.callback()
def common(
    shown: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Keep the certificates of a device fleet alive, and know what happened to it."""


def run() -> int:
    """Run the command that the arguments name; return the exit code.

    Our own errors become one line on standard error; a traceback means a bug.
    """
    try:
        return int(app(standalone_mode=False, prog_name="fleetcert") or 0)
    except typer.TyperException as error:
        return _usage(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except InvalidConfiguration as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILED
    except (FleetError, EngineFailed, *local.StackError) as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename or 'system'}: {error.strerror}")
    except KafkaException as error:
        return _failed(f"Kafka: {error.args[0].str()}; see `fleetcert status`")


def _usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "fleetcert"
    if type(error).__name__ != "NoArgsIsHelpError":  # that one has printed the help
        _failed(f"{error.format_message()} (see `{path} --help`)")
    return error.exit_code


def _failed(message: str) -> int:
    sys.stderr.write(f"fleetcert: {' '.join(message.split())}\n")
    return EXIT_FAILED


def main() -> None:
    """Run the command line."""
    sys.exit(run())


if __name__ == "__main__":
    main()
