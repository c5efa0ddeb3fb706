"""benchmarks/gradnorm_cost.py: three ways of a step that do the same work, and the line that is read off."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks import gradnorm_cost
from models.yolo import Network
from utils.devices import Compute
from utils.flags import parse


def test_the_last_line_is_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--size", "n", "--img", "64", "--batch", "2", "--rounds", "2", "--device", "cpu", "--no-amp"]
    gradnorm_cost.main(parse(gradnorm_cost.FLAGS, "", arguments))
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"gradnorm/static \d\.\d{3}", lines[-1]) and lines[-2].startswith("naive/static ")


@pytest.mark.parametrize("view_layer", [9, 17])
def test_the_norms_are_those_of_the_naive_way(view_layer: int) -> None:
    torch.manual_seed(0)
    description = gradnorm_cost.joint_description("n", view_layer) | {"width_multiple": 0.125}
    network = Network(description, view_dropout=0.0).train()
    ways = gradnorm_cost.Steps(network, 64, 4, Compute(torch.device("cpu"), None)).ways
    torch.testing.assert_close(ways["gradnorm"](), ways["naive"](), rtol=1e-4, atol=1e-6)
    assert float(ways["static"]()) > 0
