"""What processes show, on real parts: right after a restart and a rebalance."""

from pathlib import Path
from urllib.error import URLError

from client.fleets import Fleets
from client.local.ports import free_ports
from tests.helpers.engine import Rig, rig
from tests.helpers.scrape import Scrape, scrape
from tests.helpers.wait import until

FLEET = "gauges"
DEVICES = 12
DISTRIBUTION = "fleet_cert_days_distribution"
WITHIN = 40.0


def seen(*ports: int) -> list[Scrape]:
    """Return what workers show; one that does not answer shows nothing."""
    found = []
    for port in ports:
        try:
            found.append(scrape(port))
        except URLError:
            found.append(Scrape(""))
    return found


def owners(name: str, *ports: int) -> dict[str, float]:
    """Return a program's gauge by partition; AssertionError where two workers show the same."""
    found: dict[str, float] = {}
    for one in seen(*ports):
        for partition, value in one.by(name, "partition").items():
            assert partition not in found, f"{name} of partition {partition} is shown twice"
            found[partition] = value
    return found


def settled(*ports: int) -> bool:
    """Tell whether every device, every member and its certificate is shown, whoever has them."""
    shown = seen(*ports)
    sums = (
        sum(one.total("devices_registered") for one in shown),
        sum(one.total("fleet_devices_total", fleet=FLEET) for one in shown),
        sum(one.total(DISTRIBUTION, fleet=FLEET, within_days="14") for one in shown),
    )
    return sums == (DEVICES, DEVICES, DEVICES)


def keeps_up(port: int) -> bool:
    """Tell whether every partition of both programs is applied to its end, a second ago at most.

    A transaction's marker at the end of a log is an offset that is no record.
    """
    (shown,) = seen(port)
    records, seconds = shown.values("stream_lag_records"), shown.values("stream_lag_seconds")
    return len(records) == len(seconds) == 8 and max(records) <= 3 and max(seconds) < 5


def filled(engine: Rig) -> None:
    """Register the devices and make all of them members of one fleet."""
    engine.report(1, 1)
    with Fleets(engine.bootstrap) as fleets:
        fleets.create(FLEET, devices=tuple(f"device-{number}" for number in range(DEVICES)))


def test_gauges_follow_the_partitions(kafka: str, tmp_path: Path) -> None:
    """Of each partition its owner alone shows what its rows say: after a start, a kill, a return.

    Nothing happens to the rows meanwhile: what is shown was recovered with them.
    """
    engine = rig(kafka, tmp_path, partitions=4, devices=DEVICES)
    one, other = free_ports(2)
    with engine.worker("a", metrics_port=one):
        until(lambda: seen(one)[0].names, within=WITHIN, describe="the first worker answers")
        filled(engine)
        until(lambda: settled(one), within=WITHIN, describe="all are members")
        whole = seen(one)[0]
        days = whole.total("cert_days_remaining", fleet=FLEET)
        assert 9.9 < days <= 10.0
        assert whole.total(DISTRIBUTION, fleet=FLEET, within_days="7") == 0
        with engine.worker("b", metrics_port=other) as second:
            until(
                lambda: seen(other)[0].values("devices_registered") and settled(one, other),
                within=WITHIN,
                describe="the second worker has a share",
            )
            shares = owners("devices_registered", one, other)
            assert sorted(shares) == ["0", "1", "2", "3"]
            assert sum(shares.values()) == DEVICES
            second.kill()
            second.wait()
            until(lambda: settled(one), within=WITHIN, describe="the first one has all again")
            until(lambda: keeps_up(one), within=WITHIN, describe="no partition lags")
            assert owners("devices_registered", one) == shares
    with engine.worker("a", metrics_port=one):
        until(lambda: settled(one), within=WITHIN, describe="the restarted worker shows all")
        again = seen(one)[0]
        assert owners("devices_registered", one) == shares
        assert days - 0.01 < again.total("cert_days_remaining", fleet=FLEET) <= days
        assert again.total("stream_lag_seconds", program="devices", partition="0") < WITHIN
