"""The content of metrics.json as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from utils.froc import FALSE_BOXES
from utils.report import interval_of

BOX_FIGURES = ("precision", "recall", "f1", "map50", "map")


def table(content: Mapping[str, Any], per_class: bool = True) -> str:
    """Text of metrics.json for a terminal: warnings, boxes by class, patients and clips, views and their confusion."""
    width = max(10, *(len(name) for name in content["per_class"]), len("all")) + 2
    parts = [[f"! {warning}" for warning in content["warnings"]], _box_lines(content, width, per_class)]
    parts.append(_presence_lines(content, width) if per_class else [])
    if "view" in content:
        parts += [_view_lines(content["view"]), _view_figure_lines(content)]
    parts.append([_interval_line(content["interval"]), *_speed_lines(content)])
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _box_lines(content: Mapping[str, Any], width: int, per_class: bool) -> list[str]:
    by_patient = "patients" in content
    head = f"{'class':<{width}}{'labels':>8}" + f"{'patients':>10}" * by_patient
    lines = [head + f"{'P':>11}{'R':>11}{'F1':>11}{'mAP50':>11}{'mAP50-95':>11}"]
    everything = {**content, "patients": content["patients"]["count"] if by_patient else 0}
    for name, row in {"all": everything, **(content["per_class"] if per_class else {})}.items():
        key = () if name == "all" else ("per_class", name)
        counts = f"{row['labels']:>8}" + (f"{row['patients']:>10}" if by_patient else "")
        lines.append(f"{name:<{width}}{counts}" + "".join(f"{row[figure]:>11.3f}" for figure in BOX_FIGURES))
        ends = [interval_of(content, *key, figure) for figure in BOX_FIGURES]
        if any(ends):
            gap = width + 8 + 10 * by_patient
            lines.append(f"{'  95% interval':<{gap}}" + "".join(f"{_short(pair):>11}" for pair in ends))
    found = ", ".join(
        f"{content['froc'][f'{rate:g}']:.3f} {_short(interval_of(content, 'froc', f'{rate:g}'))}".rstrip()
        + f" at {rate:g}"
        for rate in FALSE_BOXES
    )
    source = content["settings"].get("confidence_from")
    lines.append(f"at confidence {content['confidence']:.3f}" + (f", found on {source}" if source else ""))
    return [*lines, f"share of boxes found: {found} false boxes a frame"]


def _presence_lines(content: Mapping[str, Any], width: int) -> list[str]:
    """Sensitivity and specificity by valve, of patients and of clips."""
    lines: list[str] = []
    for kind in ("patients", "clips"):
        if kind not in content:
            continue
        lines.append(f"{kind:<{width}}{'with':>8}{'without':>10}{'sensitivity':>15}{'':<12}{'specificity':>15}")
        for name, row in content[kind]["per_class"].items():
            cells = ""
            for figure in ("sensitivity", "specificity"):
                ends = interval_of(content, kind, "per_class", name, figure)
                cells += f"{_figure(row[figure]):>15} {_short(ends):<11}"
            lines.append(f"{name:<{width}}{row['positive']:>8}{row['negative']:>10}{cells}".rstrip())
    return lines


def _view_lines(view: Mapping[str, Any]) -> list[str]:
    names = list(view["per_class"])
    width = max(10, *(len(name) for name in names)) + 2
    head = f"{'view':<{width}}{'frames':>8}{'P':>9}{'R':>9}{'F1':>9}   predicted as: "
    lines = [head + "".join(f"{name:>{width}}" for name in names)]
    for i, (name, row) in enumerate(view["per_class"].items()):
        columns = "".join(f"{row[key]:>9.3f}" for key in ("precision", "recall", "f1"))
        spread = "".join(f"{counts[i]:>{width}}" for counts in view["confusion"])
        lines.append(f"{name:<{width}}{row['frames']:>8}{columns}{'':>17}{spread}")
    return lines


def _view_figure_lines(content: Mapping[str, Any]) -> list[str]:
    def words(view: Mapping[str, Any], *key: str) -> str:
        figures = (("accuracy", "accuracy"), ("balanced_accuracy", "balanced accuracy"), ("macro_f1", "macro-F1"))
        return ", ".join(
            f"{text} {_figure(view[name])} {_short(interval_of(content, *key, name))}".rstrip()
            for name, text in figures
        )

    view = content["view"]
    lines = [f"view {words(view, 'view')} over {view['frames']} frames"]
    clips = content.get("clips", {})
    if "view" in clips:
        lines.append(f"view {words(clips['view'], 'clips', 'view')} over {clips['view']['clips']} clips")
        if clips["mixed_views"]:
            lines[-1] += f", {clips['mixed_views']} of them with frames of different views"
    lines.append(
        "view "
        + ", ".join(
            f"{text} {view[name]:.3f} {_short(interval_of(content, 'view', name))}".rstrip()
            for name, text in (("ece", "calibration error"), ("brier", "Brier score"), ("log_loss", "log loss"))
        )
    )
    if "calibrated" in view:
        c = view["calibrated"]
        lines.append(
            f"view at temperature {c['temperature']:.2f}, fitted on validation: calibration error {c['ece']:.3f}, "
            f"Brier score {c['brier']:.3f}, log loss {c['log_loss']:.3f}"
        )
    return lines


def _interval_line(interval: Mapping[str, Any]) -> str:
    unit, units, draws = interval["unit"], interval["units"], interval["draws"]
    if not draws:
        return "no intervals: --bootstrap 0"
    if units < 2:
        return f"no intervals: they need 2 or more {unit}"
    text = f"95% intervals: bootstrap over {units} {unit}, {draws} draws"
    if unit != "patients":
        text += "; the dataset names no patients (group), so they are too narrow where frames resemble each other"
    return text


def _speed_lines(content: Mapping[str, Any]) -> list[str]:
    if "speed_ms" not in content:
        return []
    speed = content["speed_ms"]
    return [
        f"{sum(speed.values()):.1f} ms a frame: {speed['preprocess']:.1f} preprocess, "
        f"{speed['inference']:.1f} inference, {speed['nms']:.1f} NMS"
    ]


def _figure(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _short(ends: tuple[float, float] | None) -> str:
    """An interval in 7 to 9 characters: [.31 .42]."""
    if ends is None:
        return ""
    low, high = (f"{value:.2f}".removeprefix("0") if 0 <= value < 1 else f"{value:.2f}" for value in ends)
    return f"[{low} {high}]"
