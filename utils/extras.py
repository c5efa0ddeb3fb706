"""Optional packages, imported on use: exporters, runtimes and what reads DICOM, which most runs do without."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from utils.log import InputError

EXTRAS = {  # extra of pyproject.toml -> its packages as pip installs them
    "onnx": '"onnx>=1.16" "onnxscript>=0.5" "onnxruntime>=1.19" "onnxslim>=0.1.50"',
    "openvino": '"openvino>=2024.6" "nncf>=2.14"',
    "dicom": "-r requirements-dicom.txt",
}
EXTRA_OF = {
    "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx", "onnxslim": "onnx",
    "openvino": "openvino", "nncf": "openvino",
    "pydicom": "dicom", "pylibjpeg": "dicom", "av": "dicom", "highdicom": "dicom", "dicognito": "dicom",
}  # fmt: skip


NOISY = ("", "torch", "torch.onnx", "onnxscript", "onnx_ir", "onnxruntime", "nncf")  # loggers; the first is the root


def load(name: str, purpose: str) -> Any:
    """An optional package, ready to use; OpenVINO's reports to its makers are left out.

    Args:
        name: a key of :data:`EXTRA_OF`, or a module inside one.
        purpose: what needs it, for the error.

    Raises:
        InputError: it is not installed, or fails to load.
    """
    package = name.partition(".")[0]
    try:
        with _silent() if package in ("openvino", "nncf") else contextlib.nullcontext():
            return importlib.import_module(name)
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        raise InputError(f"{purpose}: {package} {reason}; pip install {EXTRAS[EXTRA_OF[package]]}") from error


def require(names: Sequence[str], purpose: str) -> None:
    """Raise an InputError now for what would be missing in the midst of the work."""
    for name in names:
        load(name, purpose)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Import as if the packages' telemetry were not installed: it sends usage to its makers from the import on.

    Both have a documented stub for that case. NNCF also warns of optional parts that are not used here.
    """
    known = {name: sys.modules.get(name) for name in ("openvino_telemetry",)}
    before = os.environ.get("NNCF_CI")
    absent: Any = None  # None in sys.modules makes an import fail
    sys.modules["openvino_telemetry"] = absent
    os.environ["NNCF_CI"] = "1"
    try:
        with quiet():
            yield
    finally:
        for name, module in known.items():
            if isinstance(module, ModuleType):
                sys.modules[name] = module
            else:
                sys.modules.pop(name, None)
        if before is None:
            os.environ.pop("NNCF_CI", None)
        else:
            os.environ["NNCF_CI"] = before


@contextlib.contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Keep the exporters' own reports, deprecations and progress bars off the screen, unless ``verbose``."""
    if verbose:
        yield
        return
    noisy = [logging.getLogger(name) for name in NOISY]
    levels, trace = [logger.level for logger in noisy], logging.getLogger("torch.__trace")
    handlers = trace.handlers[:]
    trace.handlers[:] = []  # with one, torch.export describes each of its steps, for nobody
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        trace.handlers[:] = handlers
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


def version(module: Any) -> str:
    """The first two numbers of a package's version."""
    return ".".join(str(module.__version__).partition("-")[0].split(".")[:2])
