"""What the public functions return: paths, dicts and lists that a notebook shows as tables.

Each is what its base class is, and equal to a plain one of the same content.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cnnbench.errors import CnnbenchError, UsageError

if TYPE_CHECKING:
    from cnnbench.analysis.compare.tables import Comparison
    from cnnbench.runs.record import RunRecord

    _SystemPath = Path
else:
    # Up to Python 3.11 `Path` itself cannot be subclassed.
    _SystemPath = type(Path())

_CURVES = ("loss", "accuracy", "r2")
# Lines of one chart; more cannot be told apart.
_MAX_CURVES = 12


def data_frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Return rows as a ``pandas.DataFrame``.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        raise UsageError(
            "to_dataframe(): pandas is not installed; 'pip install pandas', or use the rows as "
            "they are: dicts"
        ) from None
    return pandas.DataFrame(list(rows))


class Rows(list[dict[str, Any]]):
    """A list of dicts, each a row."""

    def to_dataframe(self) -> Any:
        """Return the rows as a ``pandas.DataFrame``, which has to be installed."""
        return data_frame(self)

    def _repr_html_(self) -> str:
        from cnnbench.rendering.html import html_table

        return html_table(self)


class Result(dict[str, Any]):
    """A dict of what was found.

    Args:
        values: of the dict.
        rows: of its data frame; by default the first list of dicts in it, or it is one row itself.
        text: as it is printed; by default as a dict is.
        html: as a notebook shows it; by default as tables of what is in it.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        rows: Sequence[Mapping[str, Any]] | None = None,
        text: str = "",
        html: str = "",
    ) -> None:
        super().__init__(values)
        self._rows, self._text, self._html = rows, text, html

    def __repr__(self) -> str:
        return self._text or super().__repr__()

    __str__ = __repr__

    def to_dataframe(self) -> Any:
        """Return its rows as a ``pandas.DataFrame``, which has to be installed."""
        rows = self._rows
        if rows is None:
            rows = next(iter(self._lists().values()), None) or [self._scalars()]
        return data_frame(rows)

    def _repr_html_(self) -> str:
        if self._html:
            return self._html
        from cnnbench.rendering.html import html_table

        pairs = [{"name": name, "value": value} for name, value in self._scalars().items()]
        tables = [html_table(rows, caption=name) for name, rows in self._lists().items() if rows]
        return "".join([html_table(pairs), *tables])

    def _scalars(self) -> dict[str, Any]:
        return {k: v for k, v in self.items() if isinstance(v, (str, int, float, type(None)))}

    def _lists(self) -> dict[str, list[dict[str, Any]]]:
        return {
            name: value
            for name, value in self.items()
            if isinstance(value, list) and all(isinstance(part, dict) for part in value)
        }


class _Directory(_SystemPath):
    """A path of ours, what is below or above which is a plain path."""

    if sys.version_info >= (3, 12):

        def with_segments(self, *parts: Any) -> Path:
            return Path(*parts)

    else:

        @classmethod
        def _from_parsed_parts(cls, *parts: Any) -> Path:
            made: Path = type(Path())._from_parsed_parts(*parts)  # type: ignore[attr-defined]
            return made


class Run(_Directory):
    """The directory of a run: a `Path`, and what was measured. It is read whenever it is asked.

    Example:
        >>> run = cnnbench.Run("outputs/digits/lenet/20260101-120000-abcdef")  # doctest: +SKIP
        >>> run.test_accuracy  # doctest: +SKIP
        0.9694
    """

    @property
    def record(self) -> RunRecord:
        """All that ``run.json`` says.

        Raises:
            CheckpointError: it is missing, damaged or foreign; as for all that follows.
        """
        from cnnbench.runs.directory import RunDir

        return RunDir(self._path()).record

    @property
    def status(self) -> str:
        """``done``, ``running``, ``failed``, ``interrupted``, or ``dead``."""
        from cnnbench.runs.directory import RunDir

        return RunDir(self._path()).current_status(self.record)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, nested."""
        return dict(self.record.config)

    @property
    def results(self) -> Result:
        """Metrics and facts by name, such as ``test/accuracy``; empty until the run is done."""
        return Result(self.record.results)

    @property
    def test_accuracy(self) -> float | None:
        """A fraction in [0, 1]; None until the run is done, and where a number is predicted."""
        accuracy = self.record.results.get("test/accuracy")
        return None if accuracy is None else float(accuracy)

    @property
    def metrics(self) -> Rows:
        """One row for each epoch: ``epoch``, ``train/loss``, ``val/accuracy`` and the others."""
        curves = self._curves()
        epochs = sorted({epoch for curve in curves.values() for epoch in curve})
        return Rows(
            {"epoch": epoch, **{name: curve.get(epoch) for name, curve in curves.items()}}
            for epoch in epochs
        )

    def _path(self) -> Path:
        """Where it lies, also of ``latest`` and of a piece of a path."""
        from cnnbench.runs.directory import path_of

        return path_of(Path(self))

    def _curves(self) -> dict[str, dict[int, float]]:
        from cnnbench.analysis.compare.records import read_curves

        curves = read_curves(self._path() / "metrics.jsonl")
        return {name: curve for name, curve in curves.items() if name not in _COUNTERS}

    def _repr_html_(self) -> str | None:
        from cnnbench.rendering.html import html_table, svg_curves

        try:
            record, curves = self.record, self._curves()
        except CnnbenchError:
            return None  # a path alone
        facts = {"run": self, "model": record.model_name, "data": record.data_name}
        facts |= {"seed": record.seed, "status": self.status, **record.results}
        charts = [
            svg_curves(
                metric,
                {
                    name: sorted(curves[name].items())
                    for name in (f"train/{metric}", f"val/{metric}")
                    if name in curves
                },
            )
            for metric in _CURVES
        ]
        rows = [{"name": name, "value": value} for name, value in facts.items()]
        return "".join([*charts, html_table(rows)])


# Of each line of metrics.jsonl, beside its metrics.
_COUNTERS = ("epoch", "global_step")


class Sweep(_Directory):
    """The directory of a sweep: a `Path`, and its runs. They are read whenever they are asked for.

    The directory may also hold runs of other commands. Its jobs are those of the last one; what a
    training returned keeps its own.
    """

    _kept: list[tuple[str, list[str]]] | None = None

    @classmethod
    def ended(cls, root: Path) -> Self:
        """Return the sweep of the command that ended now, whatever a later one does there."""
        from cnnbench.runs.directory import sweep_jobs

        sweep = cls(root)
        sweep._kept = sweep_jobs(root)
        return sweep

    @property
    def runs(self) -> list[Run]:
        """Its runs in the order of the jobs, those that were not begun left out."""
        return [run for run, _ in self._jobs() if (run / "run.json").exists()]

    @property
    def num_failed(self) -> int:
        """How many of its jobs ended without a run, or with a failed one."""
        begun = self.runs
        return len(self._jobs()) - sum(run.record.status != "failed" for run in begun)

    @property
    def results(self) -> Rows:
        """One row for each run: the settings in which it differs, ``run``, and its results."""
        return Rows(
            {**settings, "run": str(run), "status": run.status, **run.results}
            for run, settings in self._jobs()
            if (run / "run.json").exists()
        )

    def _jobs(self) -> list[tuple[Run, dict[str, Any]]]:
        from cnnbench.runs.directory import sweep_jobs

        return [
            (Run(Path(self) / name), dict(_pair(text) for text in overrides))
            for name, overrides in self._kept or sweep_jobs(Path(self))
        ]

    def _repr_html_(self) -> str | None:
        from cnnbench.analysis.compare.tables import compare_runs

        try:
            return comparison_result(compare_runs(listed(self)))._repr_html_()
        except CnnbenchError:
            return None  # a path alone


def listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """Return paths that were handed in as a list, and the runs alone of what is a sweep."""
    given = [paths] if isinstance(paths, (str, Path)) else paths
    found: list[str | Path] = []
    for path in given:
        found += (isinstance(path, Sweep) and path.runs) or [path]
    return found


def _pair(text: str) -> tuple[str, Any]:
    """Return key and value of a setting as a sweep's record has it."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def comparison_result(found: Comparison) -> Result:
    """Return a comparison as `cnnbench.compare` does: with a row of plain numbers for each row."""
    from cnnbench.analysis.compare import formats
    from cnnbench.rendering.html import escaped, html_table

    parts = []
    for table, rows in zip(found.tables, formats.comparison_cells(found), strict=True):
        texts = [{cell.head: cell.text for cell in row} for row in rows]
        shown = sorted(formats.shown_columns(rows), key=lambda cell: cell.rank)
        sentences = " ".join((*table.sentences, *table.notes))
        parts += [f"<h4>{escaped(table.title)}</h4>" if table.title else ""]
        parts += [f"<p>{escaped(sentences)}</p>" if sentences else ""]
        parts += [html_table(texts, [cell.head for cell in shown]), _charts(table)]
    if found.left_out:
        parts.append(html_table([vars(run) for run in found.left_out], caption="not in the table"))
    return Result(
        formats.to_dict(found),
        rows=formats.plain_rows(found),
        text=formats.comparison_text(found, "text").rstrip("\n"),
        html="".join(parts),
    )


def _charts(table: Any) -> str:
    """Return the curves of a table's rows, each the mean over its seeds."""
    from statistics import fmean

    from cnnbench.analysis.compare.formats import row_name
    from cnnbench.analysis.compare.plots import by_epoch
    from cnnbench.rendering.html import svg_curves

    charts = []
    for name in ("train/loss", *(f"val/{metric}" for metric in _CURVES[1:])):
        curves = {}
        for row in table.rows[:_MAX_CURVES]:
            points = by_epoch([record.curves.get(name, {}) for record in row.records])
            curves[row_name(row, table)] = [(n, fmean(values)) for n, values in points.items()]
        charts.append(svg_curves(name, curves))
    return "".join(charts)
