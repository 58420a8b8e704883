"""The plugin under AddressSanitizer and UndefinedBehaviorSanitizer."""

import subprocess
from pathlib import Path

from bridges.mqtt.broker.build import build
from tests.integration.plugin import (
    test_connections,
    test_newcomers,
    test_refusals,
    test_stamp,
    test_start,
    test_topics,
    test_wills,
)
from tests.integration.plugin.rig import make_broker, running


def test_the_plugin_is_clean_under_the_sanitizers(tmp_path: Path) -> None:
    """Sessions, forgeries, take-overs, orders and kicks give AddressSanitizer nothing to say."""
    found = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    environment = {
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    library = build(tmp_path / "build", sanitize=True)
    with running(make_broker(tmp_path, library, environment, test_newcomers.ROOM)) as sanitized:
        test_stamp.test_forged_stamps_are_removed(sanitized)
        test_wills.test_a_will_of_a_session_taken_over_is_judged_as_a_will(sanitized)
        test_topics.test_refused_messages_are_told_sixteen_times(sanitized)
        test_topics.test_properties_and_topics_are_bounded(sanitized)
        test_connections.test_a_certificate_must_name_one_device(sanitized)
        test_refusals.test_a_refused_certificate_is_cut_off_and_a_new_one_gets_in(sanitized)
        test_refusals.test_the_twin_of_a_refused_certificate_is_cut_off_too(sanitized, False)
        test_refusals.test_a_killed_broker_keeps_refusals_and_queues(sanitized)
        test_start.test_a_reload_judges_nobody_again(sanitized)
        test_newcomers.test_a_newcomer_presents_its_certificate_once_a_session(sanitized)
        test_newcomers.test_a_newcomer_takes_nothing_from_the_device_of_its_name(sanitized)
        test_newcomers.test_newcomers_are_few_and_push_no_device_out(sanitized)
        test_newcomers.test_a_certificate_that_has_enrolled_is_good_for_nothing(sanitized)
        test_newcomers.test_both_twins_of_a_certificate_that_has_enrolled_are_cut_off(sanitized)
        test_newcomers.test_a_certificate_is_told_up_to_a_bound(sanitized)
        for order in (b"", b"\0", b"[" * 3000, b" " * 5000, b'{"refuse":{"device":1}}'):
            test_refusals.test_a_wrong_order_is_answered_with_what_is_wrong(sanitized, order)
