"""The same recipes on several data sets: which rows belong together, and how they rank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from cnnbench.analysis.compare.conclusion import row_names
from cnnbench.analysis.compare.rows import Row
from cnnbench.analysis.compare.tables import Comparison
from cnnbench.analysis.statistics.ranks import (
    MIN_DATA_SETS,
    MIN_RECIPES,
    Ranks,
    rank_recipes,
)
from cnnbench.rendering.text import setting_text

_NAMED = 8


@dataclass(frozen=True)
class RankedRecipes:
    """Recipes that every data set of a comparison has.

    Attributes:
        names: of the recipes.
        data_sets: their names.
        ranks: of the recipes, in the order of the names.
    """

    names: tuple[str, ...]
    data_sets: tuple[str, ...]
    ranks: Ranks

    @property
    def order(self) -> list[int]:
        """Indices of the recipes, the best first."""
        return sorted(range(len(self.names)), key=lambda index: self.ranks.mean_ranks[index])


def rank_over_data_sets(found: Comparison) -> RankedRecipes | None:
    """Rank the recipes of a comparison over its data sets.

    Rows belong together where their settings agree but for those of the data and of the device.
    One that is not judged beside the others of its data set, as of other test images, has no rank.

    Args:
        found: with a table for each data set, as several give by themselves.

    Returns:
        None where fewer than 3 recipes are on each of at least 2 data sets.
    """
    by_data: dict[str, dict[str, Row]] = {}
    for table in found.tables:
        for row in table.rows:
            rows = by_data.setdefault(setting_text(row.values["data"]), {})
            if row.values["selection"] == "test":
                return None
            if not row.is_ranked:
                continue
            if (key := _recipe(row)) in rows:
                return None  # grouped by something else
            rows[key] = row
    if len(by_data) < MIN_DATA_SETS:
        return None
    first, *others = by_data.values()
    shared = [key for key in first if all(key in rows for rows in others)]
    if len(shared) < MIN_RECIPES or len({row.score for row in first.values()}) > 1:
        return None
    scores = [
        [rows[key].metric(rows[key].score)["mean"] or 0.0 for key in shared]
        for rows in by_data.values()
    ]
    ranked = [first[key] for key in shared]
    names = row_names(ranked, _differing(ranked))
    return RankedRecipes(
        tuple(names[row.number] for row in ranked), tuple(by_data), rank_recipes(scores)
    )


def _recipe(row: Row) -> str:
    """Return the settings that are not the data's and not the machine's."""
    settings = row.records[0].settings
    kept = {k: v for k, v in settings.items() if k.partition(".")[0] not in ("data", "device")}
    return json.dumps(kept, sort_keys=True)


def _differing(rows: Sequence[Row]) -> list[str]:
    keys = {key: None for row in rows for key in row.records[0].settings if key != "model"}
    return [key for key in keys if len({setting_text(row.values.get(key)) for row in rows}) > 1]


def ranks_text(ranked: RankedRecipes) -> str:
    """Say in words how recipes rank, and what that can bear."""
    ranks = ranked.ranks
    listed = [f"{ranked.names[i]} {ranks.mean_ranks[i]:.2f}" for i in ranked.order[:_NAMED]]
    more = f", and {len(ranked.names) - _NAMED} more" if len(ranked.names) > _NAMED else ""
    text = (
        f"Mean ranks over {ranks.num_data_sets} data sets ({', '.join(ranked.data_sets)}): "
        f"{', '.join(listed)}{more}. Friedman's test that all are equal: p = {ranks.p:.2g}; "
        f"ranks differ at 5 % from {ranks.critical_difference:.2f} on (Nemenyi)."
    )
    rough = " p is rough for so few (ten data sets and five recipes are wanted)."
    return text + (rough if ranks.is_small else "")
