"""Which columns of a table a terminal has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cnnbench.notices import cell_width

# Columns of the first table that name a row, in each further one too.
_NAMES = 2


def fitting_columns(
    ranks: Mapping[str, int], texts: Sequence[Mapping[str, str]], width: int | None
) -> list[list[str]]:
    """Return the columns of a table that fit, and of further ones for those that have to be shown.

    Args:
        ranks: of the columns, by their heads, the lowest first. Those of rank 0 are in the first
            table in any case; those of rank 1 without room in it follow in tables of their own,
            beside the first two columns; the others are left out.
        texts: rows by head.
        width: columns of the terminal; None for any width.

    Returns:
        Heads of each table, one at least.

    Example:
        >>> row = {"row": "1", "model": "lenet", "macs": "1,000"}
        >>> fitting_columns({"row": 0, "model": 0, "macs": 2}, [row], 12)
        [['row', 'model']]
    """
    if width is None:
        return [list(ranks)]
    sizes = {
        head: max(map(cell_width, (head, *(row[head] for row in texts)))) + 2 for head in ranks
    }
    first = [head for head, rank in ranks.items() if rank == 0]
    tables = [_filled(first, list(ranks), sizes, width)]
    while waiting := [
        head
        for head, rank in ranks.items()
        if rank == 1 and not any(head in heads for heads in tables)
    ]:
        names = first[:_NAMES]
        heads = _filled(names, waiting, sizes, width)
        # One that is too wide for any terminal of this width is shown all the same.
        tables.append(heads if len(heads) > len(names) else [*names, waiting[0]])
    return tables


def _filled(
    chosen: Sequence[str], more: Sequence[str], sizes: Mapping[str, int], width: int
) -> list[str]:
    """Return the chosen columns and as many more as there is room for; all where there is none."""
    heads, left = list(chosen), width + 2 - sum(sizes[head] for head in chosen)
    if left < 0:
        return list(dict.fromkeys((*chosen, *more)))
    for head in more:
        if head not in heads and sizes[head] <= left:
            heads.append(head)
            left -= sizes[head]
    return heads
