"""The one look of all figures: readable in black and white, the same bytes each time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.files import atomic_write, writing
from cnnbench.notices import NEWLINE, notice, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart, from dark to light in turns.
_COLORS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "----", "++++", "oooo")
# Fonts with the scripts that matplotlib's own lacks, as systems name them; the installed ones are
# asked in this order, after its own.
_FONTS = (
    *(f"Noto Sans CJK {country}" for country in ("JP", "SC", "TC", "KR")),
    *("Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Hebrew"),
    *("Source Han Sans", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("IPAGothic", "IPAexGothic", "TakaoPGothic", "NanumGothic", "UnDotum", "Unifont"),
    *("PingFang SC", "Hiragino Sans", "Hiragino Sans GB", "Apple SD Gothic Neo", "Geeza Pro"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "Meiryo", "Malgun Gothic", "Arial Unicode MS"),
)
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "cnnbench",
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in our look inside the block, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "font.family": list(_installed_fonts())})
        yield


def line_look(index: int) -> dict[str, Any]:
    """Return colour, line and marker of the line of an index, from 0."""
    return {
        "color": _COLORS[index % len(_COLORS)],
        "linestyle": _LINES[index % len(_LINES)],
        "marker": _MARKERS[index % len(_MARKERS)],
    }


def bar_look(index: int) -> dict[str, Any]:
    """Return the filling of the bars of a series of an index, from 0."""
    hatch = _HATCHES[index % len(_HATCHES)]
    return {"color": "#cfcfcf", "edgecolor": "black", "hatch": hatch, "linewidth": 0.8}


@cache
def _installed_fonts() -> dict[str, str]:
    """Return the files of the fonts that figures use, by family, matplotlib's own first."""
    from matplotlib import font_manager

    installed = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    own = font_manager.findfont("DejaVu Sans")
    return {"DejaVu Sans": own, **{n: installed[n] for n in _FONTS if n in installed}}


@cache
def _has_glyph(character: str) -> bool:
    from matplotlib import font_manager

    return any(
        font_manager.get_font(file).get_char_index(ord(character))
        for file in _installed_fonts().values()
    )


@cache
def _tell_missing() -> None:
    notice(
        "no installed font has all characters of these names, so figures show numbers for them; "
        "install a font such as Noto Sans CJK"
    )


def plain(text: str) -> str:
    """Return text that is drawn as it stands: a dollar sign would be read as mathematics.

    What no installed font can draw is shown by number, and said once.
    """
    text = visible(text, kept=NEWLINE)
    missing = {c for c in text if not c.isascii() and not _has_glyph(c)}
    if missing:
        _tell_missing()
        text = "".join(f"\\u{ord(c):04x}" if c in missing else c for c in text)
    return text.replace("$", r"\$")


def save(figure: Figure, stem: Path, kinds: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write a figure as one file of each kind, and return the files.

    Args:
        figure: drawn inside ``style()``.
        stem: path without the ending; its directory is made where it is missing.
        kinds: of png and svg.

    Raises:
        DiskError: a file cannot be written.
    """
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    with writing(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in kinds:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # A character that the font lacks is drawn as a box.
            warnings.filterwarnings("ignore", r"Glyph \d+")
            figure.savefig(buffer, format=kind, metadata=metadata[kind])
        # Laid out once: that takes longer than to draw.
        figure.set_layout_engine("none")
        file = stem.with_name(f"{stem.name}.{kind}")
        atomic_write(file, buffer.getvalue())
        files.append(file)
    return files


def legend_below(figure: Figure, ax: Axes, note: str = "") -> None:
    """Name the lines of one of the axes below the figure, with a note above the names."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=1 if max(map(len, labels), default=0) > 40 else 2,
        fontsize=8,
        title=note or None,
        title_fontsize=8,
        alignment="left",
    )
