"""Weights that a classifier starts from: a checkpoint, or torchvision's for ImageNet from a file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from utils.archive import is_archive
from utils.legacy import Legacy
from utils.log import LOGGER, InputError
from utils.starting import Start, read_start

IMAGENET = "imagenet"


def imagenet_file(backbone: str, download: bool) -> Path:
    """torchvision's best ImageNet weights of a backbone in torch's cache, fetched there if that is asked for.

    Raises:
        InputError: it has none; they are not on disk and not to be fetched, or cannot be.
    """
    from torchvision.models import get_model_weights

    try:
        weights = get_model_weights(backbone).DEFAULT
    except ValueError as error:
        raise InputError(f"--classifier-weights {IMAGENET}: expected a ResNet classifier, got {backbone}") from error
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    if not download:
        raise InputError(f"{path}: no such file; --download fetches it from {weights.url}")
    LOGGER.info("Fetching %s", weights.url)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(weights.url, str(path), path.stem.rsplit("-", 1)[-1])  # its hash begins so
    except (OSError, RuntimeError) as error:
        raise InputError(f"{weights.url}: expected to fetch it, got {error}") from error
    return path


def read_weights(path: Path) -> Start | dict[str, Tensor]:
    """A checkpoint, or the tensors of a torchvision file; nothing in it is executed.

    Raises:
        InputError: absent, or neither.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    if is_archive(path):
        found = read_start(path)
        return dict(found.state) if isinstance(found, Legacy) and found.network is None else found
    try:  # some of torchvision's files are in torch's format from before 1.6
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file ends in any of many
        raise InputError(
            f"{path}: expected weights as torchvision's, got a file that cannot be read ({type(error).__name__})"
        ) from error
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path}: expected named tensors, as in torchvision's files, got something else")
    return dict(content)
