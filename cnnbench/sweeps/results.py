"""What a sweep ends with: the table of its runs, and a page."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.errors import DiskError
from cnnbench.notices import terminal_width, warn
from cnnbench.sweeps.ask import Question
from cnnbench.sweeps.launchers import Launcher
from cnnbench.sweeps.launchers.local import ForkLauncher

if TYPE_CHECKING:
    from cnnbench.analysis.compare.search_part import SearchPart
    from cnnbench.analysis.compare.tables import Comparison

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
    launcher: Launcher | None = None,
) -> None:
    """Print the table of a sweep's runs with its verdict; leave a page and TensorBoard's bands.

    Args:
        root: of the sweep.
        runs: with a record.
        search: what the page says of the search that they belong to.
        baseline: a run of the row that the others are compared with; None for the best one.
        launcher: none of whose jobs runs any more; its process has loaded torch.
    """
    from cnnbench.analysis.compare.bands import write_bands
    from cnnbench.analysis.compare.formats import comparison_text
    from cnnbench.analysis.compare.report import write_report
    from cnnbench.analysis.compare.tables import compare_runs

    if not runs:
        return
    found = compare_runs(runs, baseline=baseline)
    asked = _ask_layers(found, launcher) if isinstance(launcher, ForkLauncher) else None
    print(f"\n{comparison_text(found, 'text', terminal_width())}", flush=True)
    layers: dict[str, Any] = (asked.answer() if asked is not None else None) or {}
    try:
        write_report(found, root / REPORT, search, layers)
        print(f"report: {root / REPORT}", flush=True)
    except DiskError as error:
        warn(f"the sweep has no page: {error}")
    write_bands(found, root, warn)


def _ask_layers(found: Comparison, launcher: ForkLauncher) -> Question | None:
    """Have the layers of all networks found that a page shows."""
    from cnnbench.analysis.compare.report_details import network_key

    networks: dict[str, tuple[Any, str]] = {}
    for table in found.tables:
        for record in (record for row in table.rows for record in row.records):
            networks.setdefault(network_key(record), (record.network, str(record.path)))
    with contextlib.suppress(OSError):
        return Question(launcher, "layers", {"networks": networks})
    return None
