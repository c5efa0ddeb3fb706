"""benchmarks/formats.py: one table, the same frames for all, figures that agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import formats
from tests.exported import saved
from tests.scripts import phantom_yaml
from utils.flags import parse
from utils.log import InputError


def test_formats_are_measured_beside_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--weights",
        str(saved("joint")),
        "--data",
        str(phantom_yaml(tmp_path)),
        "--project",
        str(tmp_path / "out"),
    ]
    chosen = ["--formats", "checkpoint", "torchscript", "--precisions", "fp32", "--frames", "2"]
    rows = formats.main(parse(formats.FLAGS, "", [*arguments, *chosen]))
    assert [(row.kind, row.precision) for row in rows] == [(k, "fp32") for k in chosen[1:3]]
    assert {round(row.map50, 3) for row in rows} == {round(rows[0].map50, 3)}
    assert rows[0].deviation.pixels == 0 and all(row.deviation.pixels < 1e-3 for row in rows)
    assert all(row.milliseconds > 0 and row.size > 0.1 for row in rows)
    assert "TorchScript" in capsys.readouterr().out.splitlines()[-1]


def test_combinations_that_no_runtime_has_are_left_out() -> None:
    assert not formats.available("onnx", "bf16") and not formats.available("checkpoint", "int8")
    assert formats.available("openvino", "int8") and formats.available("checkpoint", "fp32")


def test_frames_are_needed() -> None:
    with pytest.raises(InputError, match="--data: expected a dataset yaml, got none"):
        formats.main(parse(formats.FLAGS, "", ["--weights", str(saved("joint"))]))
