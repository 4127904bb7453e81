"""What the numbers of a comparison's tables mean, in sentences below them."""

from __future__ import annotations

from collections.abc import Sequence

from cnnbench.analysis.compare.changes import NOTE
from cnnbench.analysis.compare.data_sets import rank_over_data_sets, ranks_text
from cnnbench.analysis.compare.rows import Row
from cnnbench.analysis.compare.tables import Comparison
from cnnbench.rendering.text import setting_text

SPREAD_NOTE = (
    "±: sample standard deviation over n seeds, everywhere; intervals are given by their ends."
)


def reading_notes(found: Comparison) -> list[str]:
    """Say what the numbers of the tables mean."""
    rows = [row for table in found.tables for row in table.rows]
    notes = [SPREAD_NOTE] if any(len(row.records) > 1 for row in rows) else []
    if any(table.changes for table in found.tables):
        notes.append(NOTE)
    if any(row.folds for row in rows):
        notes.append("Of rows of folds, n counts folds and seeds.")
    tested = [
        t for t in found.tables if any(r.verdict.get("simultaneous_interval") for r in t.rows)
    ]
    if tested:
        margins = ", ".join(dict.fromkeys(f"{table.margin:.3g}" for table in tested))
        base = "baseline" if found.baseline else "best row"
        notes.append(
            f"Δ {accuracy_of(rows)}: difference from the {base}, and "
            "the differences that the test does not reject at 5 % for the whole table. Equivalent: "
            f"within a margin of {margins} (--margin). Tests: docs/statistics.md."
        )
    if note := difference_note(found):
        notes.append(note)
    if (ranked := rank_over_data_sets(found)) is not None:
        notes.append(ranks_text(ranked))
    if any(row.is_marked("epoch_seconds") for row in rows):
        notes.append("* measured beside other jobs of its sweep: not ranked, not compared")
    if note := _devices_note(rows):
        notes.append(note)
    return notes


def _devices_note(rows: Sequence[Row]) -> str | None:
    """Say whose seconds are of which kind of device; None where they are all of one."""
    numbers: dict[str, list[int]] = {}
    for row in rows:
        for device in row.devices:
            numbers.setdefault(device, []).append(row.number)
    if len(numbers) < 2:
        return None
    parts = [
        f"row{'' if len(found) == 1 else 's'} {', '.join(map(str, found))} on {setting_text(kind)}"
        for kind, found in numbers.items()
    ]
    return (
        "Measured on different devices, seconds and images per second do not compare the rows: "
        f"{'; '.join(parts)}."
    )


def difference_note(found: Comparison) -> str | None:
    """Say what a difference is; None where there are none."""
    if found.baseline is None:
        return None
    is_tested = any(row.verdict.get("verdict") for table in found.tables for row in table.rows)
    of_what = "Δ of other columns" if is_tested else "Δ"
    return (
        f"{of_what}: mean difference from row {found.baseline.number} over the seeds that both "
        "have, ± its sample standard deviation; not tested."
    )


def accuracy_of(rows: Sequence[Row]) -> str:
    """Return the name of the accuracy that rows are ranked by: of folds that validate, val's."""
    names = {row.accuracy for row in rows}
    return names.pop() if len(names) == 1 else "accuracy"
