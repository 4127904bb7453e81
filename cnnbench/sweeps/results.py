"""What a sweep ends with: the table of its runs, and a page."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.errors import DiskError
from cnnbench.notices import terminal_width, warn

if TYPE_CHECKING:
    from cnnbench.analysis.compare.search_part import SearchPart

REPORT = "report.html"


def load_results() -> None:
    """Load what shows the results, while the jobs load what they need and a core is free."""
    with contextlib.suppress(ImportError):
        for name in ("cnnbench.analysis.compare.report", "jinja2.utils", "scipy.special"):
            importlib.import_module(name)


def show_results(
    root: Path,
    runs: Sequence[Path],
    search: SearchPart | None = None,
    baseline: str | None = None,
) -> None:
    """Print the table of a sweep's runs with its verdict; leave a page and TensorBoard's bands.

    Args:
        root: of the sweep.
        runs: with a record.
        search: what the page says of the search that they belong to.
        baseline: a run of the row that the others are compared with; None for the best one.
    """
    from cnnbench.analysis.compare.bands import write_bands
    from cnnbench.analysis.compare.formats import comparison_text
    from cnnbench.analysis.compare.report import write_report
    from cnnbench.analysis.compare.tables import compare_runs

    if not runs:
        return
    found = compare_runs(runs, baseline=baseline)
    print(f"\n{comparison_text(found, 'text', terminal_width())}", flush=True)
    try:
        write_report(found, root / REPORT, search)
        print(f"report: {root / REPORT}", flush=True)
    except DiskError as error:
        warn(f"the sweep has no page: {error}")
    write_bands(found, root, warn)
