"""A table for a paper: booktabs, intervals, the best in bold, and a caption that says it all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cnnbench.analysis.compare.formats import Cell, shown_columns
from cnnbench.analysis.compare.tables import Table
from cnnbench.analysis.compare.verdicts import best_row
from cnnbench.rendering.text import escape_latex, render_table, setting_text
from cnnbench.runs import columns

# What a paper has no room for: it is in every other format.
_MAX_RANK = 3
_LABELS = {
    "n": "seeds",
    "test/accuracy": "test accuracy",
    "test/r2": "test R2",
    "test/mae": "test MAE",
    "num_params": "parameters",
    "macs": "MACs",
    "epoch_seconds": "s per epoch",
    "train_tflop": "TFLOP",
    "Δ test/accuracy": "difference",
}
_LONG = 1_000
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
# A table that is wider than the page's column is made as wide as it.
_FITTING = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}"
_BASES = {
    "seeds": "exact sign flips of paired seeds, the largest |t| of the table as statistic",
    "seeds-normal": "t-tests over seeds with Holm's correction",
    "folds": "t-tests over folds, corrected for the training images that they share",
    "images": "tests over the test images, which hold for these trained networks alone",
}


def latex_table(table: Table, rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table environment, below what it says in words as comments.

    Args:
        table: with its verdicts.
        rows: its cells.
    """
    shown = sorted(shown_columns(rows), key=lambda cell: cell.rank)
    shown = [cell for cell in shown if _is_shown(cell)]
    intervals = [_ends(row.verdict.get("accuracy_interval")) for row in table.rows]
    heads, right = [], []
    for cell in shown:
        heads.append(_LABELS.get(cell.head, cell.head))
        right += [heads[-1]] if cell.is_number else []
        if cell.head == table.rows[0].score and any(intervals):
            heads.append("95 % interval")
            right.append(heads[-1])
    names = {cell.head: _LABELS.get(cell.head, cell.head) for cell in shown}
    texts = []
    for cells, ends in zip(rows, intervals, strict=True):
        found = {names[cell.head]: _short(cell) for cell in cells if cell.head in names}
        texts.append({**found, "95 % interval": ends})
    bold_heads = ["model", names.get(table.rows[0].score, ""), "95 % interval"]
    best = best_row(table.rows)
    bold = [table.rows.index(best)] if best is not None else []
    tabular = render_table(texts, heads, "latex", right, bold=bold, bold_columns=bold_heads)
    comments = [table.title, *table.sentences, *table.notes]
    caption = escape_latex(_caption(table)).replace(" \\%", "~\\%")
    metric = table.rows[0].score.partition("/")[2]
    label = re.sub(r"[^a-z0-9]+", "-", f"{metric} {table.title}".lower()).strip("-")
    return "".join(
        [
            *(f"% {setting_text(text)}\n" for text in comments if text),
            "% needs \\usepackage{booktabs,graphicx}\n",
            "\\begin{table}\n\\centering\n\\setlength{\\tabcolsep}{4pt}\n",
            f"\\caption{{{caption}}}\n\\label{{tab:{label}}}\n\\smallskip\n",
            f"{_FITTING}{{%\n{tabular.rstrip()}}}\n",
            "\\end{table}\n",
        ]
    )


def _is_shown(cell: Cell) -> bool:
    if cell.head == "row" or cell.head.removeprefix("Δ ").startswith("val/"):
        return False
    return cell.rank <= _MAX_RANK or cell.head.startswith("Δ ")


def _short(cell: Cell) -> str:
    """Return a cell's text; a count of millions has three digits."""
    if not isinstance(cell.value, int) or cell.value < _LONG:
        return cell.text
    factor, unit = next(pair for pair in _UNITS if cell.value >= pair[0])
    return f"{cell.value / factor:.3g} {unit}"


def _ends(interval: Any) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""


def _caption(table: Table) -> str:
    """Say what was run and tested: data, seeds, selection, intervals, tests."""
    rows = table.rows
    records = [record for row in rows for record in row.records]
    data = ", ".join(dict.fromkeys(setting_text(row.values["data"]) for row in rows))
    seeds = sorted({record.seed for record in records})
    spread = "mean ± sample standard deviation over the seeds of a row"
    score = _sentence(columns.score_text(rows[0].score))
    reads = max(record.test_reads for record in records)
    if not reads:
        return f"Runs on {data} ({_range(seeds)}) that have not read the test images."
    parts = [f"{score} on {data}: {spread} ({_range(seeds)})"]
    selections = dict.fromkeys(record.selection for record in records)
    once = "once" if reads == 1 else f"at most {reads} times"
    parts.append(
        f"The epoch of each run was selected on {', '.join(selections)}, and the test images were "
        f"read {once}"
    )
    if any(row.verdict.get("accuracy_interval") for row in rows):
        parts.append("Intervals: of the mean over more seeds, 95 %")
    bases = {row.verdict.get("verdict_basis") for row in rows}
    tests = [text for basis, text in _BASES.items() if basis in bases]
    if tests and len(rows) > 1:
        named = any(row.verdict.get("verdict") == "baseline" for row in rows)
        against = "the baseline" if named else "the best row"
        parts.append(
            f"Verdicts and differences from {against}, with simultaneous 95 % intervals: "
            f"{'; '.join(tests)}; equivalent: within {table.margin:.3g}"
        )
    return ". ".join(parts) + "."


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _range(seeds: Sequence[int]) -> str:
    """Name seeds: ``seeds 0 to 5``, ``seed 3``, ``seeds 1, 5 and 9``."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if list(seeds) == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2:
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds[:-1]))} and {seeds[-1]}"
