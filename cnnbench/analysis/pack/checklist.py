"""A reproducibility checklist in Markdown, filled in from the runs' own records.

The questions are those that conferences ask (Pineau et al., 2021, "Improving Reproducibility in
Machine Learning Research", JMLR 22). What no record says is left open for the authors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

from cnnbench.analysis.compare.conclusion import row_names
from cnnbench.analysis.compare.notes import SPREAD_NOTE
from cnnbench.analysis.compare.records import LeftOut, Record
from cnnbench.analysis.compare.rows import Row
from cnnbench.analysis.compare.tables import Comparison
from cnnbench.rendering.text import counted, setting_text
from cnnbench.runs.predictions import FILE_NAME
from cnnbench.version import __version__

_BASES = {
    "seeds": "exact sign flips of whole seeds, corrected for the number of rows",
    "seeds-normal": "t-tests over seeds, which take runs to be normally spread, corrected (Holm)",
    "images": "the test images of these trained networks alone, not other trainings",
}


def checklist_text(
    found: Comparison, left_out: Sequence[LeftOut], *, has_weights: bool, has_predictions: bool
) -> str:
    """Return the checklist of a comparison.

    Args:
        found: of the packed runs.
        left_out: runs that were found and are in no table.
        has_weights: whether the package has the selected weights.
        has_predictions: whether it has each run's predictions.
    """
    rows = [row for table in found.tables for row in table.rows]
    records = [record for row in rows for record in row.records]
    parts = {
        "Data": _data(records),
        "Networks and training": _training(found, records),
        "Results": _results(rows, left_out),
        "Computing": _computing(records),
        "This package": [
            (True, "Settings", "`runs/*/config.yaml`, complete; `cnnbench train --config` repeats"),
            (has_predictions, "Predictions for each test image", f"`runs/*/{FILE_NAME}`"),
            (has_weights, "Weights of the selected epoch", "`runs/*/checkpoints` (pack --weights)"),
            (True, "Check", "`cnnbench verify PACKAGE` recomputes what follows from predictions"),
        ],
    }
    lines = [
        "# Reproducibility checklist",
        "",
        f"Filled in by cnnbench {__version__} from the records of {counted(len(records), 'run')}. "
        "`[x]` is answered by the records, `[ ]` is left to the authors.",
    ]
    for title, items in parts.items():
        lines += ["", f"## {title}", ""]
        lines += [
            f"- [{'x' if is_answered else ' '}] **{question}**: {answer}"
            for is_answered, question, answer in items
        ]
    return "\n".join(lines) + "\n"


_Items = list[tuple[bool, str, str]]


def _listed(values: Iterable[object]) -> str:
    """Return values once each, with how often where they are not all the same."""
    counts = Counter(setting_text(value) for value in values)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({counted(count, 'run')})" for text, count in counts.items())


def _of(records: Sequence[Record], key: str) -> str:
    return _listed(record.settings.get(key) for record in records)


def _data(records: Sequence[Record]) -> _Items:
    names = [
        f"{record.settings.get('data')}, from {record.provenance.get('data', 'not recorded')}, "
        f"SHA-256 {record.data_sha256[:16]}"
        for record in records
    ]
    return [
        (True, "Data sets and sources", _listed(names)),
        (True, "Images of each split", _listed(r.provenance.get("images", "?") for r in records)),
        (
            True,
            "Validation part",
            f"stratified; data.val_fraction {_of(records, 'data.val_fraction')}, "
            f"data.split_seed {_of(records, 'data.split_seed')}",
        ),
        (
            True,
            "Preprocessing and augmentation",
            f"data.image_size {_of(records, 'data.image_size')}, data.normalize "
            f"{_of(records, 'data.normalize')}, augment {_of(records, 'augment')}",
        ),
        (False, "Duplicates between the splits", "`cnnbench data check NAME` finds them"),
        (False, "Licence, consent and collection of the data", ""),
    ]


def _training(found: Comparison, records: Sequence[Record]) -> _Items:
    networks = []
    for table in found.tables:
        names = row_names(table.rows, table.settings)
        for row in table.rows:
            params, macs = row.values.get("num_params"), row.values.get("macs")
            if params is not None and macs is not None:
                networks.append(f"{names[row.number]} ({params:,} parameters, {macs:,} MACs)")
    reads = max(record.test_reads for record in records)
    return [
        (bool(networks), "Networks", "; ".join(dict.fromkeys(networks))),
        (
            True,
            "Optimizer and schedule",
            f"optimizer {_of(records, 'optimizer')}, optimizer.lr {_of(records, 'optimizer.lr')}, "
            f"scheduler {_of(records, 'scheduler')}, num_epochs {_of(records, 'num_epochs')}, "
            f"data.batch_size {_of(records, 'data.batch_size')}",
        ),
        (
            True,
            "What the epoch was selected on",
            f"{_listed(record.selection for record in records)}; the test images were read at "
            f"most {reads} time{'' if reads == 1 else 's'} by a run",
        ),
        (False, "How the other settings were chosen, over which ranges and in how many trials", ""),
    ]


def _results(rows: Sequence[Row], left_out: Sequence[LeftOut]) -> _Items:
    bases = [row.verdict.get("verdict_basis") for row in rows if row.verdict]
    texts = [text for basis, text in _BASES.items() if basis in bases]
    reasons = Counter(f"{run.status}: {run.reason}" for run in left_out)
    return [
        (True, "Runs of each row", _counts(len(row.records) for row in rows)),
        (True, "Seeds", "; ".join(map(str, sorted({r.seed for row in rows for r in row.records})))),
        (True, "Measure of variation", SPREAD_NOTE),
        (bool(texts), "Tests", "; ".join(texts)),
        (
            True,
            "Runs that are in no table",
            "; ".join(f"{setting_text(text)} ({count})" for text, count in reasons.items())
            or "none",
        ),
    ]


def _counts(sizes: Iterable[int]) -> str:
    counts = Counter(sizes)
    return ", ".join(f"{size} in {count} rows" for size, count in sorted(counts.items()))


def _computing(records: Sequence[Record]) -> _Items:
    seconds = [r.metrics["train_seconds"] or 0.0 for r in records]
    tflop = [value for r in records if (value := r.metrics["train_tflop"]) is not None]
    work = f"; {sum(tflop):.4g} TFLOP in all" if tflop else ""
    return [
        (True, "Machine", _listed(r.provenance.get("machine", "not recorded") for r in records)),
        (True, "Versions", _listed(r.provenance.get("versions", "not recorded") for r in records)),
        (True, "Code", _listed(r.code_version or "not recorded" for r in records)),
        (
            True,
            "Number format and threads",
            f"device.precision {_of(records, 'device.precision')}, device.num_threads "
            f"{_of(records, 'device.num_threads')}",
        ),
        (
            True,
            "Training time",
            f"{sum(seconds) / 3600:.3g} hours in all, {fmean(seconds):.4g} s a run{work}",
        ),
        (False, "Energy, and trials that are not among these runs", ""),
    ]
