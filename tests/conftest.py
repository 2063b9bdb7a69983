"""What all tests in Python have in common.

They run real processes beside one another on few cores, and many wait for something to happen in time. One that
fails runs once more, and the summary names it (RERUN): what fails twice is broken. Suites whose subject is that an
answer is the same bits run again only when what they are about did not come about (cluster.Inconclusive): an answer
that differs once is a bug.
"""

import os

import pytest

RERUNS = int(os.environ.get("M1_RERUNS", "1"))  # 0 to look for such tests
ONE_ANSWER = ("test_device.py", "test_failover.py", "test_golden.py", "test_in_flight.py", "test_mixed.py",
              "test_one_answer.py", "test_order.py")


def pytest_collection_modifyitems(items):
    for item in items:
        if RERUNS:
            only = {"only_rerun": ["Inconclusive"]} if item.path.name in ONE_ANSWER else {}
            item.add_marker(pytest.mark.flaky(reruns=RERUNS, reruns_delay=1, **only))


def pytest_terminal_summary(terminalreporter):
    """Why each first run failed: pytest shows that of a test's last run only."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"first run of {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
