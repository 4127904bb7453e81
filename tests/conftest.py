"""What all tests share: one thread, and no test that is quietly skipped where it must run."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator

import pytest

# Before torch is imported. Tests run side by side, and the subprocesses they start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test has two threads they wait asleep: spinning, on cores that the other tests need, makes
# a run many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Each network would be checked in a process of its own; tests/device does so.
os.environ.setdefault("CNNBENCH_KERNEL_CHECK", "0")

# A suite started in the background is born deaf to Ctrl-C, and so would be what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# One under nohup is deaf to a terminal that hangs up.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A machine may lack these; anything else that is missing is a fault of the setup.
MAY_BE_MISSING = ("no cuda", "no mps", "no tex")


def pytest_collection_finish() -> None:
    """Look for garbage less often: thousands of tests and torch live on, and looking costs 10 %."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where ``CI`` is set, fail a skipped test, unless its device is missing."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").lower().startswith(MAY_BE_MISSING):
            report.outcome = "failed"
            report.longrepr = f"skipped, which CI does not allow: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself, as ``pytest.importorskip`` does."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report
