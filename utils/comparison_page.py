"""A comparison of trainings as one HTML file: a table to sort, curves to hover; it opens without a network.

Everything the page runs is inside it, and its content policy forbids the browser to fetch anything else.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from utils.canvas import COLOURS
from utils.files import write_text

if TYPE_CHECKING:
    from bokeh.models.widgets.tables import DataTable
    from bokeh.plotting import figure as Figure

Cell = str | float | None

_DASHES = ("solid", "dashed", "dotted", "dotdash")  # the palette's next rounds, in the order of canvas.STYLES
_MARKERS = ("circle", "square", "triangle", "diamond")
_MOST_ROWS = 25  # shown at once; a longer table scrolls
_MOST_LETTERS = 48  # of a name in a legend, which a panel cannot widen; hovering shows the whole name
_MOST_MARKED = 30  # points up to which a curve shows each of them, as in plots.results_figure

# Unsafe-eval is for the table, whose cell templates become functions in the browser.
_TEMPLATE = """
{% block preamble %}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:; font-src data:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'">
<meta name="viewport" content="width=device-width, initial-scale=1">
{% endblock %}
{% block postamble %}
<style>
  body { font-family: Helvetica, Arial, sans-serif; font-size: 14px; color: #222; padding: 0 20px 20px; }
  h1 { font-size: 22px; overflow-wrap: anywhere; }
  h2 { font-size: 15px; margin: 0 0 6px; overflow-wrap: anywhere; }
  p { margin: 6px 0; max-width: 60em; line-height: 1.4; overflow-wrap: anywhere; }
  .panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 24px;
            margin-top: 24px; }
  section { min-width: 0; }
</style>
{% endblock %}
{% block contents %}
{% from macros import embed %}
<h1>{{ title | e }}</h1>
{{ embed(roots[0]) }}
{% for note in notes %}
<p>{{ note | e }}</p>
{% endfor %}
<div class="panels">
{% for heading, root in panels %}
<section><h2>{{ heading | e }}</h2>{% if root is none %}<p>no values</p>{% else %}{{ embed(roots[root]) }}
{% endif %}</section>
{% endfor %}
</div>
{% endblock %}
"""

# The library's style sheet does not reach into the table, which has a document of its own.
_TABLE_STYLE = """
:host { max-width: 100%; border: 1px solid #ccc; }
.slick-header-column.ui-state-default { font-weight: bold; font-size: 13px; background: #f2f2f2; }
.slick-cell { font-size: 13px; line-height: 26px; }
.number { text-align: right; padding-right: 12px; font-variant-numeric: tabular-nums; }
.winner { font-weight: bold; color: #005a8c; }
"""
_TO_THE_RIGHT = ":nth-child(COLUMN of .slick-header-column) .slick-column-name { float: right; margin-right: 8px; }"


@dataclass(frozen=True)
class PageTable:
    """The table of methods; a click on a column's title sorts by it.

    Attributes:
        columns: (key, title, digits behind the point) of each; a column of text has no digits (None).
        rows: the cells of a method by key. Of a number's column a cell that is absent, None, text or not finite
            shows as "-", and sorts beyond every number.
        marked: (row, key) of the values that are best beyond the noise: bold, with a star.
    """

    columns: Sequence[tuple[str, str, int | None]]
    rows: Sequence[Mapping[str, Cell]]
    marked: frozenset[tuple[int, str]] = frozenset()


@dataclass(frozen=True)
class Curve:
    """One line of a panel, or one set of points; points that are not finite are left out and the rest is joined.

    Attributes:
        name: shown on hovering ("gradnorm, seed 2").
        x, y: equally many values.
        colour: index into the palette; from its end on, dashes and marks tell the next round apart.
        group: the legend's entry ("gradnorm"), shared by a method's seeds, which a click hides together; without
            one the name.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    group: str = ""


@dataclass(frozen=True)
class Panel:
    """One diagram.

    Attributes:
        references: (y, label) of dashed lines across the panel, such as (ln 3, "chance").
        joined: draw lines; else points only, as of one value against another.
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    references: Sequence[tuple[float, str]] = ()
    joined: bool = True


def write_page(path: Path, title: str, table: PageTable, panels: Sequence[Panel], notes: Sequence[str]) -> None:
    """Write the page whole: the table, below it ``notes`` (a paragraph each, plain text), then the panels."""
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    roots: list[Any] = [_data_table(table)]
    places: list[tuple[str, int | None]] = []  # title, index into roots
    for panel in panels:
        lines = [(curve, *_finite(curve)) for curve in panel.curves]
        lines = [line for line in lines if line[1]]
        places.append((panel.title, len(roots) if lines else None))
        if lines:
            roots.append(_figure(panel, lines))
    variables = {"notes": notes, "panels": places}
    write_text(path, file_html(roots, INLINE, title, template=_TEMPLATE, template_variables=variables))


def _data_table(table: PageTable) -> DataTable:
    """Columns are named by their number, so that a key needs no quoting in the cells' templates."""
    from bokeh.models import ColumnDataSource
    from bokeh.models.widgets.tables import DataTable, HTMLTemplateFormatter, TableColumn

    data: dict[str, Any] = {}
    columns, to_the_right = [], []
    for i, (key, title, digits) in enumerate(table.columns):
        cells = [row.get(key) for row in table.rows]
        stars = ["★ " if (row, key) in table.marked else "" for row in range(len(cells))]
        if digits is None:
            values: list[Any] = ["-" if cell is None else str(cell) for cell in cells]
            shown = values
        else:
            values = [float(cell) if _is_number(cell) else math.nan for cell in cells]
            shown = [f"{value:.{digits}f}" if math.isfinite(value) else "-" for value in values]
            to_the_right.append(_TO_THE_RIGHT.replace("COLUMN", str(i + 1)))
        data[f"c{i}"] = values
        data[f"shown{i}"] = [star + text for star, text in zip(stars, shown, strict=True)]
        data[f"looks{i}"] = [("" if digits is None else "number ") + ("winner" if star else "") for star in stars]
        cell = f'<div class="<%- looks{i} %>" title="<%- shown{i} %>"><%- shown{i} %></div>'
        letters = max([len(text) for text in data[f"shown{i}"]], default=0)
        width = max(70, 8 * len(title) + 36, min(420, 8 * letters + 24))  # beside a title stands the sorting's arrow
        look = HTMLTemplateFormatter(template=cell)
        # The table takes titles for HTML.
        columns.append(TableColumn(field=f"c{i}", title=html.escape(title), formatter=look, width=width))
    return DataTable(
        source=ColumnDataSource(data),
        columns=columns,
        width=sum(column.width for column in columns) + (18 if len(table.rows) > _MOST_ROWS else 2),  # scroll bar
        height=28 * min(len(table.rows), _MOST_ROWS) + 43,  # a scroll bar too, for a narrow window
        margin=0,
        row_height=28,
        autosize_mode="none",  # the other modes squeeze the columns until titles are cut off
        index_position=None,
        reorderable=False,
        selectable=False,
        stylesheets=[_TABLE_STYLE, *to_the_right],
    )


def _is_number(cell: Cell) -> TypeGuard[float]:
    return cell is not None and not isinstance(cell, str) and math.isfinite(cell)


def _finite(curve: Curve) -> tuple[list[float], list[float]]:
    """Only the points that are there: validation may run at every fifth epoch."""
    points = [(float(x), float(y)) for x, y in zip(curve.x, curve.y, strict=True)]
    there = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    return [x for x, _ in there], [y for _, y in there]


def _figure(panel: Panel, lines: Sequence[tuple[Curve, list[float], list[float]]]) -> Figure:
    """A panel without its title, which the page shows above it, where it wraps."""
    from bokeh.models import BoxZoomTool, ColumnDataSource, HoverTool, PanTool, PlainText, ResetTool, WheelZoomTool
    from bokeh.plotting import figure

    plot = figure(sizing_mode="stretch_width", min_width=240, toolbar_location="above")
    hovered: list[Any] = []
    legend: dict[str, list[Any]] = {}
    for curve, x, y in lines:
        source = ColumnDataSource({"x": x, "y": y, "name": [curve.name] * len(x)})
        colour, turn = COLOURS[curve.colour % len(COLOURS)], curve.colour // len(COLOURS)
        entry = legend.setdefault(curve.group or curve.name, [])
        joined = panel.joined and len(x) > 1
        if not joined or len(x) <= _MOST_MARKED:
            looks: dict[str, Any] = {"size": 5} if joined else {"size": 11, "fill_alpha": 0.6}
            looks |= {"marker": _MARKERS[turn % len(_MARKERS)], "color": colour}
            entry.append(plot.scatter("x", "y", source=source, **looks))
        if joined:  # it comes last, and the legend's sample shows it with the marks
            dash = _DASHES[turn % len(_DASHES)]
            entry.append(plot.line("x", "y", source=source, color=colour, line_width=2, line_dash=dash))
        hovered.append(entry[-1])
    for y_reference, label in panel.references:
        span = plot.hspan(y=[y_reference], line_color="#666666", line_dash="dashed", line_width=1.5)
        legend.setdefault(label, []).append(span)
    # A plain string would be searched for formulas, and the formulas' fonts are fetched from the network.
    plot.xaxis.axis_label, plot.yaxis.axis_label = PlainText(text=panel.x_label), PlainText(text=panel.y_label)
    plot.axis.axis_label_text_font_style = "normal"
    plot.outline_line_color = None
    plot.grid.grid_line_color = "#e5e5e5"
    tooltips = [("name", "@name"), (panel.x_label, "@x{%.6g}"), (panel.y_label, "@y{%.4g}")]
    formatters: dict[str, Any] = {"@x": "printf", "@y": "printf"}
    hover = HoverTool(renderers=hovered, tooltips=tooltips, formatters=formatters, limit=4)
    plot.tools = [hover, PanTool(), zoom := BoxZoomTool(), WheelZoomTool(), ResetTool()]
    plot.toolbar.active_drag = zoom  # the wheel scrolls the page until its tool is chosen
    plot.toolbar.active_scroll = None
    plot.toolbar.logo = None  # a link to the library's site
    _add_legend(plot, legend)
    return plot


def _add_legend(plot: Figure, entries: Mapping[str, Sequence[Any]]) -> None:
    """Below the panel, where it covers no curve; a click hides an entry's curves."""
    from bokeh.core.properties import value
    from bokeh.models.annotations import Legend, LegendItem

    names = [name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…" for name in entries]
    across = max(1, min(len(names), 400 // (40 + 6 * max(map(len, names)))))
    plot.height = 330 + 24 * -(-len(names) // across)  # so that all panels' axes are about as high
    shown = zip(names, entries.values(), strict=True)
    items = [LegendItem(label=value(name), renderers=list(drawn)) for name, drawn in shown]
    legend = Legend(items=items, ncols=across, orientation="horizontal", location="left", click_policy="hide")
    legend.update(label_text_font_size="12px", border_line_color=None, margin=0, spacing=6)
    plot.add_layout(legend, "below")
