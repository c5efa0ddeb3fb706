"""What the documents promise about the files of the project."""

from __future__ import annotations

import re

import pytest

from utils.config import ROOT


@pytest.mark.parametrize("folder", ["models", "utils"])
def test_every_module_has_its_place_in_the_architecture_and_a_test_of_its_own(folder: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(\w+)\.py`", text))
    modules = {path.stem for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"}
    assert modules <= named
    assert not [name for name in modules if not (ROOT / "tests" / f"test_{name}.py").is_file()]


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "docs/architecture.md",
        "docs/evaluation.md",
        "docs/training-strategy.md",
        "docs/comparison.md",
        "docs/deployment.md",
        "docs/from-yolov5.md",
        "docs/many-processes.md",
        "docs/new-patients.md",
        "docs/study-report.md",
        "benchmarks/README.md",
        "benchmarks/results.md",
        "SECURITY.md",
    ],
)
def test_links_to_files_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
        linked = path.parent / target if target else path
        headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
        # as GitHub makes them of headings
        anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert anchor in anchors, f"{target}#{anchor}"
