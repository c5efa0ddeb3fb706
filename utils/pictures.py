"""Frames of a run with their labels and predictions, laid out in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.dataset import EchoDataset
from utils.draw import draw, ground_truth, mosaic, save
from utils.evaluation import Evaluation
from utils.images import read_image

BATCHES = 3  # that get pictures
PICTURE_FRAMES = 16  # of a batch that a picture shows
PICTURE_CONFIDENCE = 0.25


def write_batch_pictures(
    dataset: EchoDataset,
    result: Evaluation,
    names: Sequence[str],
    view_names: Sequence[str],
    folder: Path,
    batch_size: int,
) -> None:
    """``val_batch{0,1,2}_labels.jpg`` and ``..._pred.jpg``: the first batches' frames with labels and predictions."""
    own_views = dataset.config.view_names
    for number in range(BATCHES):
        chosen = result.predictions[number * batch_size : (number + 1) * batch_size][:PICTURE_FRAMES]
        if not chosen:
            return
        labelled, predicted, titles = [], [], []
        for found in chosen:
            image, label = read_image(dataset.files[found.index]), dataset.labels[found.index]
            boxes = ground_truth(label.boxes, (image.shape[0], image.shape[1]))
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
        rows = ground_truth(boxes, (image.shape[0], image.shape[1]))
        pictures.append(draw(image, rows, names, view_names[view] if view >= 0 else None))
        titles.append(dataset.files[index].name)
    save(path, mosaic(pictures, titles))


def view_text(probabilities: Any, view_names: Sequence[str]) -> str | None:
    """The likeliest view and its probability, for a picture; None without a view head."""
    if probabilities is None:
        return None
    best = int(probabilities.argmax())
    return f"{view_names[best]} {float(probabilities[best]):.2f}"
