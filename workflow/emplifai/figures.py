"""The figures of the report: SVG and PNG, readable by people with colour-blindness, with Japanese glyphs where there is a font.

Drawn in the colours of a light page; `dark` turns an SVG into its twin for a dark one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emplifai.statistics.bootstrap import Interval

INK, FAINT = "#1b2430", "#8a93a0"
DARK = {INK: "#e6eaf0", FAINT: "#7d8794"}
#: Okabe & Ito (2008): eight colours told apart with any colour vision; without its black and yellow.
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
FONTS = [
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "IPAexGothic",
    "IPAGothic",
    "Hiragino Sans",
    "Yu Gothic",
    "TakaoGothic",
    "Noto Serif CJK JP",
]


class Figure(NamedTuple):
    """A drawn figure: its name, what it shows in words, and the SVG text."""

    name: str
    title: str
    alt: str
    svg: str

    @property
    def dark(self) -> str:
        text = self.svg
        for light, dark in DARK.items():
            text = text.replace(light, dark)
        return text


def japanese_font() -> str | None:
    """An installed font with Japanese glyphs; None: labels stay in English."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in FONTS if name in installed), None)


def draw(
    folder: Path, name: str, title: str, alt: str, size: tuple[float, float], paint: Callable[[Any], None], panels: int = 1
) -> Figure:
    """Paint one figure and write NAME.svg and NAME.png (180 dpi, white ground). size: inches. panels: side by side; with
    more than one `paint` gets an array of axes.

    Text stays text in the SVG, the same input gives the same bytes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    font = [name for name in (japanese_font(), "DejaVu Sans") if name]
    style = {
        "font.family": font, "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": name, "axes.unicode_minus": False,
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": FAINT,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": FAINT,
        "grid.alpha": 0.25, "axes.prop_cycle": matplotlib.cycler(color=PALETTE), "legend.frameon": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained", sharey=True)
        try:
            paint(axes)
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / f"{name}.svg", transparent=True, metadata={"Date": None, "Creator": "emplifai"})
            figure.savefig(folder / f"{name}.png", dpi=180, facecolor="white", metadata={"Software": "emplifai"})
        finally:
            plt.close(figure)
    return Figure(name, title, alt, (folder / f"{name}.svg").read_text("utf-8"))


def forest(axes: Any, rows: Sequence[tuple[str, Interval]], label: str, line: float | None = None) -> None:
    """Estimates with their intervals, one row each, the first on top. line: where a vertical line is drawn."""
    if line is not None:
        axes.axvline(line, color=FAINT, linewidth=1)
    for y, (_, value) in enumerate(rows):
        if value.estimate is None:
            continue
        if value.low is not None:
            axes.plot([value.low, value.high], [y, y], color=PALETTE[0], linewidth=2, solid_capstyle="round")
        axes.plot(value.estimate, y, "o", color=PALETTE[0], markersize=5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)


def groups(axes: Any, names: Sequence[str], series: dict[str, Sequence[Interval]], label: str) -> None:
    """Several estimates for each name side by side, one marker a series."""
    step = 0.7 / max(len(series), 1)
    for k, ((title, values), marker) in enumerate(zip(series.items(), "osD^vP" * 3, strict=False)):
        y = np.arange(len(names)) + (k - (len(series) - 1) / 2) * step
        for at, value in zip(y, values, strict=True):
            if value.low is not None:
                axes.plot([value.low, value.high], [at, at], color=f"C{k % 6}", linewidth=1.5)
        known = [(v.estimate, at) for at, v in zip(y, values, strict=True) if v.estimate is not None]
        axes.plot([x for x, _ in known], [at for _, at in known], marker, color=f"C{k % 6}", markersize=5, label=title)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    _legend_below(axes)


def curves(axes: Any, lines: dict[str, tuple[Sequence[float], Sequence[float]]], across: str, up: str) -> None:
    """Lines over steps; a line whose name starts with `dev` gets markers."""
    for k, (name, (x, y)) in enumerate(lines.items()):
        held_out = " dev" in f" {name}"
        axes.plot(x, y, "o-" if held_out else "-", color=f"C{k % 6}", linewidth=2 if held_out else 1.2, markersize=5, label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend()


def bars(axes: Any, names: Sequence[str], parts: dict[str, Sequence[float]], across: str) -> None:
    """Horizontal bars, the parts of each stacked."""
    left = np.zeros(len(names))
    for k, (title, values) in enumerate(parts.items()):
        axes.barh(range(len(names)), values, left=left, height=0.7, color=PALETTE[k % 6], label=title)
        left += np.asarray(values, float)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(across)
    axes.grid(axis="y", visible=False)
    if len(parts) > 1:
        _legend_below(axes)


def boxes(axes: Any, values: dict[str, Sequence[float]], across: str) -> None:
    """A box a system: median, quartiles, 5th and 95th percentile; the dots are the outer tenth."""
    line = {"color": INK}
    axes.boxplot(
        list(values.values()), orientation="horizontal", whis=(5, 95), widths=0.6, patch_artist=True, medianprops=line,
        boxprops={"facecolor": PALETTE[5], "edgecolor": INK, "alpha": 0.8}, whiskerprops=line, capprops=line,
        flierprops={"marker": ".", "markersize": 3, "markerfacecolor": INK, "markeredgecolor": INK},
    )  # fmt: skip
    axes.set_yticks(range(1, len(values) + 1), list(values))
    axes.invert_yaxis()
    axes.set_xlabel(across)
    axes.grid(axis="y", visible=False)


def matrix(axes: Any, counts: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Counts as shades of one colour, the darker the more; zero is no colour at all."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("shades", ["#9fd0ec", PALETTE[0], "#00304d"])
    image = axes.imshow(np.ma.masked_equal(counts, 0), cmap=shades, aspect="equal", interpolation="nearest", vmin=1)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(alpha=0.15)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.6, label="dialogues")
    bar.ax.yaxis.get_major_locator().set_params(integer=True)


def heat(
    axes: Any, panels: dict[str, np.ndarray], rows: Sequence[str], columns: Sequence[str], scale: tuple[float, float]
) -> None:
    """Means as colours on the declared scale, a panel each; a cell without a value is left open."""
    for axis, (title, cells) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        image = axis.imshow(cells, cmap="cividis", aspect="auto", interpolation="nearest", vmin=scale[0], vmax=scale[1])
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axis.set_yticks(range(len(rows)), rows, fontsize=7)
        axis.grid(visible=False)
    np.atleast_1d(axes)[0].figure.colorbar(image, ax=axes, shrink=0.6, label="mean score")


def _legend_below(axes: Any) -> None:
    # borderaxespad is in lines of text: clear of ticks and label, however low the axes are
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4, ncols=3)
