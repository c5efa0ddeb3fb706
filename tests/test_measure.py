"""benchmarks/measure.py: ways in turns, ratios by round, programs timed, and a table that is json as well."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.measure import Machine, answer, in_turns, phantom_yaml, ratio, report, seconds
from utils.config import load_dataset_config
from utils.log import InputError


def test_each_way_is_called_once_a_round_and_begins_in_turn() -> None:
    calls: list[str] = []

    def way(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    figures = in_turns({name: lambda name=name: way(name) for name in "abc"}, 2, "test")  # type: ignore[misc]
    assert calls == ["a", "b", "c", "b", "c", "a"]
    assert figures == {"a": [1, 6], "b": [2, 4], "c": [3, 5]}


def test_the_ratio_is_of_rounds_not_of_medians() -> None:
    assert ratio([2, 20, 3], [1, 10, 3]) == 2


def test_programs_are_timed_and_answer_and_their_failure_is_one_line(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys\nprint('first')\nprint('{\"x\": 1.5}')\nsys.exit('no luck' if sys.argv[1:] else 0)")
    assert 0 < seconds([str(program)]) < 30
    assert answer([str(program)]) == {"x": 1.5}
    for call in (seconds, answer):
        with pytest.raises(InputError, match=r"program\.py wrong: failed: no luck"):
            call([str(program), "wrong"])


def test_phantom_data_are_made_beside_their_yaml(tmp_path: Path) -> None:
    config = load_dataset_config(phantom_yaml(tmp_path, patients=3, clips=1, frames=1, height=96, width=96))
    assert config.root == tmp_path / "frames" and len(list(config.root.rglob("*.jpg"))) == 3


def test_a_report_is_a_table_and_json_with_machine_date_and_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks/x.py", "--fast"])
    rows = [{"way": "plain", "images/s": 11.26, "MB": 2643.7}, {"way": "faster than that", "images/s": 31.0, "MB": 9.0}]
    report("x", rows, str(tmp_path / "deep" / "x.json"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:6] == [
        "way               images/s  MB",
        "plain             11.3      2644",
        "faster than that  31        9",
    ]
    content = json.loads((tmp_path / "deep" / "x.json").read_text())
    assert content["rows"] == rows and content["command"] == "python benchmarks/x.py --fast"
    assert content["machine"] == vars(Machine.this()) and len(content["date"]) == 10


def test_the_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Machine.this()
    assert found.cores >= 1 and found.gigabytes >= 1 and found.processor
    monkeypatch.setattr(measure.Path, "read_text", lambda *a, **k: (_ for _ in ()).throw(OSError()))
    assert Machine.this().processor
