"""An evaluation -> metrics.json, a table on screen, and the figures of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.dataset import EchoDataset
from utils.draw import draw, mosaic, save
from utils.engine import Evaluation
from utils.images import read_image
from utils.metrics import CONFIDENCES, DetectionFigures, ViewFigures
from utils.plots import plot_confusion, plot_curve, plot_pr

PICTURE_FRAMES = 16  # of a batch that a picture shows
PICTURE_CONFIDENCE = 0.25


def metrics(
    result: Evaluation, names: Sequence[str], view_names: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of metrics.json."""
    figures = result.detection
    content: dict[str, Any] = {
        "precision": figures.mean_precision,
        "recall": figures.mean_recall,
        "f1": figures.mean_f1,
        "map50": figures.map50,
        "map": figures.map,
        "confidence": figures.confidence,
        "frames": len(result.predictions),
        "labels": int(figures.labels.sum()),
        "per_class": {names[label]: _of_class(figures, row) for row, label in enumerate(figures.classes)},
        "confusion": {"names": [*names, "background"], "predicted_by_true": result.confusion.tolist()},
        "speed_ms": vars(result.speed),
        "settings": dict(settings),
    }
    if result.view is not None:
        content["view"] = _of_views(result.view, view_names)
    if result.losses is not None:
        content["loss"] = result.losses._asdict()
    return content


def _of_class(figures: DetectionFigures, row: int) -> dict[str, float]:
    return {
        "labels": int(figures.labels[row]),
        "precision": float(figures.precision[row]),
        "recall": float(figures.recall[row]),
        "f1": float(figures.f1[row]),
        "map50": float(figures.ap[row, 0]),
        "map": float(figures.ap[row].mean()),
    }


def _of_views(view: ViewFigures, view_names: Sequence[str]) -> dict[str, Any]:
    return {
        "frames": view.frames,
        "accuracy": view.accuracy,
        "macro_f1": view.macro_f1,
        "per_class": {
            name: {
                "frames": int(view.confusion[:, i].sum()),
                "precision": float(view.precision[i]),
                "recall": float(view.recall[i]),
                "f1": float(view.f1[i]),
            }
            for i, name in enumerate(view_names)
        },
        "confusion": view.confusion.tolist(),
    }


def table(content: Mapping[str, Any], per_class: bool = True) -> str:
    """Text of metrics.json for a terminal: boxes by class, then views and their confusion matrix."""
    width = max(10, *(len(name) for name in content["per_class"]), len("all")) + 2
    lines = [f"{'class':<{width}}{'labels':>8}{'P':>9}{'R':>9}{'F1':>9}{'mAP50':>9}{'mAP50-95':>10}"]
    rows = {"all": content, **(content["per_class"] if per_class else {})}
    for name, row in rows.items():
        columns = "".join(f"{row[key]:>9.3f}" for key in ("precision", "recall", "f1", "map50"))
        lines.append(f"{name:<{width}}{row['labels']:>8}{columns}{row['map']:>10.3f}")
    if "view" in content:
        lines += ["", *_view_lines(content["view"])]
    speed = content["speed_ms"]
    total = sum(speed.values())
    lines.append("")
    lines.append(
        f"{total:.1f} ms a frame: {speed['preprocess']:.1f} preprocess, {speed['inference']:.1f} inference, "
        f"{speed['nms']:.1f} NMS"
    )
    return "\n".join(lines)


def _view_lines(view: Mapping[str, Any]) -> list[str]:
    names = list(view["per_class"])
    width = max(10, *(len(name) for name in names)) + 2
    head = f"{'view':<{width}}{'frames':>8}{'P':>9}{'R':>9}{'F1':>9}   predicted as: "
    lines = [head + "".join(f"{name:>{width}}" for name in names)]
    for i, (name, row) in enumerate(view["per_class"].items()):
        columns = "".join(f"{row[key]:>9.3f}" for key in ("precision", "recall", "f1"))
        spread = "".join(f"{counts[i]:>{width}}" for counts in view["confusion"])
        lines.append(f"{name:<{width}}{row['frames']:>8}{columns}{'':>17}{spread}")
    lines.append(f"view accuracy {view['accuracy']:.3f}, macro-F1 {view['macro_f1']:.3f} over {view['frames']} frames")
    return lines


def write_figures(result: Evaluation, names: Sequence[str], view_names: Sequence[str], folder: Path) -> None:
    """Curves and confusion matrices of an evaluation."""
    figures = result.detection
    plot_confusion(
        result.confusion.astype(float),
        names,
        folder / "confusion_matrix.png",
        title="Boxes at confidence 0.25, IoU 0.45",
    )
    if result.view is not None:
        path = folder / "view_confusion_matrix.png"
        plot_confusion(result.view.confusion.astype(float), view_names, path, background=False, title="Views")
    own = [names[label] for label in figures.classes]
    for letter, name, curve in (
        ("P", "Precision", figures.precision_curve),
        ("R", "Recall", figures.recall_curve),
        ("F1", "F1", figures.f1_curve),
    ):
        plot_curve(CONFIDENCES, curve, own, folder / f"{letter}_curve.png", "Confidence", name, f"{name} at IoU 0.5")
    plot_pr(CONFIDENCES, figures.pr_curve, figures.ap[:, 0], own, folder / "PR_curve.png")


def write_batch_pictures(
    dataset: EchoDataset,
    result: Evaluation,
    names: Sequence[str],
    view_names: Sequence[str],
    folder: Path,
    batch_size: int,
    batches: int = 3,
) -> None:
    """``val_batch{0,1,2}_labels.jpg`` and ``..._pred.jpg``: the first batches' frames with labels and predictions."""
    own_views = dataset.config.view_names
    for number in range(batches):
        chosen = result.predictions[number * batch_size : (number + 1) * batch_size][:PICTURE_FRAMES]
        if not chosen:
            return
        labelled, predicted, titles = [], [], []
        for found in chosen:
            image, label = read_image(dataset.files[found.index]), dataset.labels[found.index]
            height, width = image.shape[:2]
            boxes = _ground_truth(label.boxes, width, height)
            labelled.append(draw(image, boxes, names, own_views[label.view] if label.view >= 0 else None))
            sure = found.boxes[found.boxes[:, 4] > PICTURE_CONFIDENCE].numpy()
            predicted.append(draw(image, sure, names, view_text(found.view, view_names)))
            titles.append(dataset.files[found.index].name)
        save(folder / f"val_batch{number}_labels.jpg", mosaic(labelled, titles))
        save(folder / f"val_batch{number}_pred.jpg", mosaic(predicted, titles))


def write_training_pictures(dataset: EchoDataset, keys: Sequence[Any], names: Sequence[str], path: Path) -> None:
    """Samples as the network is given them, augmentation and padding included."""
    view_names = dataset.config.view_names
    pictures, titles = [], []
    for key in keys[:PICTURE_FRAMES]:
        tensor, boxes, view, _, index = dataset[key]
        image = np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())
        rows = _ground_truth(boxes, image.shape[1], image.shape[0])
        pictures.append(draw(image, rows, names, view_names[view] if view >= 0 else None))
        titles.append(dataset.files[index].name)
    save(path, mosaic(pictures, titles))


def _ground_truth(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Labels (n, 5) normalised -> what :func:`utils.draw.draw` takes, (n, 6) without confidence."""
    scale = np.array([width, height])
    centre, half = boxes[:, 1:3] * scale, boxes[:, 3:5] * scale / 2
    none = np.full((len(boxes), 1), np.nan)
    return np.concatenate((centre - half, centre + half, none, boxes[:, :1]), 1)


def view_text(probabilities: Any, view_names: Sequence[str]) -> str | None:
    """The likeliest view and its probability, for a picture; None without a view head."""
    if probabilities is None:
        return None
    best = int(probabilities.argmax())
    return f"{view_names[best]} {float(probabilities[best]):.2f}"
