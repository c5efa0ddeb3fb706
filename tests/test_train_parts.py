"""train.py and val.py where parts share patients or frames: marked in every table, or refused when asked to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import val
from tests.test_train import fit
from utils.checkpoint import read, save
from utils.log import InputError
from utils.loggers import read_results


@pytest.fixture(scope="module")
def leaky(place: Path) -> Path:
    """A dataset that is validated on what it is trained on."""
    path = place / "leaky.yaml"
    path.write_text((place / "small.yaml").read_text().replace("val: images/val", "val: images/train"))
    return path


def test_weights_that_have_seen_the_validation_patients_are_told(place: Path) -> None:
    swapped = place / "swapped.yaml"
    text = (place / "small.yaml").read_text()
    swapped.write_text(
        text.replace("train: images/train", "train: images/val").replace("\nval: images/val", "\nval: images/test")
    )
    start = fit(place, "seen", data=str(swapped)) / "weights" / "best.pt"
    folder = fit(place, "seen", weights=str(start))
    content = json.loads((folder / "metrics.json").read_text())
    assert content["leakage"]["shared_patient_share"] == 1 and "1 of 1 patients of val" in content["warnings"][0]
    again = val.run(
        weights=str(folder / "weights" / "best.pt"), data=str(place / "small.yaml"), project=str(place / "val"),
        bootstrap=0,
    )  # fmt: skip
    assert again["warnings"] == content["warnings"]
    silent = {key: value for key, value in read(start).content.items() if key != "trained_on"}
    save(place / "silent.pt", silent)
    with pytest.raises(InputError, match=r"--strict-groups: silent\.pt, from which the training starts"):
        fit(place, "silent", weights=str(place / "silent.pt"), strict_groups=True)
    told = json.loads((fit(place, "silent", weights=str(place / "silent.pt")) / "metrics.json").read_text())
    assert "silent.pt, from which the training starts, does not say" in told["warnings"][0]


def test_patients_and_frames_in_both_parts_mark_every_table_and_json(
    place: Path, leaky: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fit(place, "leaky", data=str(leaky))
    patients = "7 of 7 patients of val are in the training part, too (100% of its frames): its figures flatter"
    frames = "42 of 42 frames of val (100%) look nearly identical to training frames"
    content = json.loads((folder / "metrics.json").read_text())
    assert content["warnings"][0] == patients and content["warnings"][1].startswith(frames)
    assert content["leakage"]["shared_patients"] == 7 and content["leakage"]["near_identical_share"] == 1
    assert f"! {patients}\n! {frames}" in capsys.readouterr().out
    assert patients in caplog.text
    for rows in (read_results(folder / "results.csv"), json.loads((folder / "training_history.json").read_text())):
        assert (rows[0]["leakage/patients"], rows[0]["leakage/near_identical"]) == (1, 1)
    again = val.run(
        weights=str(folder / "weights" / "best.pt"), data=str(leaky), project=str(place / "val"), bootstrap=0
    )
    assert again["warnings"][0] == patients and again["leakage"] == content["leakage"]


def test_a_split_by_patient_is_not_marked(place: Path) -> None:
    folder = fit(place, "clean")
    content = json.loads((folder / "metrics.json").read_text())
    assert content["warnings"] == [] and content["leakage"]["shared_patients"] == 0
    rows = read_results(folder / "results.csv")
    assert (rows[0]["leakage/patients"], rows[0]["leakage/near_identical"]) == (0, 0)


def test_without_named_patients_frames_are_compared_and_the_rest_is_told(place: Path, leaky: Path) -> None:
    nameless = place / "nameless.yaml"
    nameless.write_text(leaky.read_text().replace("group:", "# group:"))
    content = json.loads((fit(place, "nameless", data=str(nameless), bootstrap=20) / "metrics.json").read_text())
    assert "could not be compared" in content["warnings"][0]
    assert "look nearly identical" in content["warnings"][1]
    assert content["interval"]["unit"] == "frames" and "patients" not in content


def test_strict_groups_makes_shared_patients_an_error(place: Path, leaky: Path) -> None:
    with pytest.raises(InputError, match=r"leaky\.yaml: --strict-groups: 7 of 7 patients of val"):
        fit(place, "strict", data=str(leaky), strict_groups=True)
    assert not (place / "runs" / "strict").exists()
    nameless = place / "nameless.yaml"
    nameless.write_text((place / "small.yaml").read_text().replace("group:", "# group:"))
    with pytest.raises(InputError, match=r"nameless\.yaml: --strict-groups: patients of val could not be compared"):
        fit(place, "strict", data=str(nameless), strict_groups=True)
    folder = fit(place, "strict", strict_groups=True)
    with pytest.raises(InputError, match=r"small\.yaml: --strict-groups: 7 of 7 patients of train"):
        val.run(weights=str(folder / "weights" / "best.pt"), data=str(place / "small.yaml"), task="train",
                project=str(place / "val"), strict_groups=True)  # fmt: skip


def test_a_checkpoint_that_does_not_say_whom_it_has_seen_is_compared_with_train(place: Path) -> None:
    found = dict(read(fit(place, "forgetful") / "weights" / "best.pt").content)
    del found["trained_on"]
    save(place / "forgetful.pt", found)

    def warned(data: str) -> tuple[list[str], Any]:
        content = val.run(
            weights=str(place / "forgetful.pt"), data=str(place / data), project=str(place / "val"), bootstrap=0
        )
        return content["warnings"], content["leakage"]

    warnings, leakage = warned("small.yaml")
    assert len(warnings) == 1 and "compared with this dataset's train part" in warnings[0]
    assert leakage["shared_patients"] == 0 and leakage["patients"] == 1
    text = (place / "small.yaml").read_text()
    (place / "trainless.yaml").write_text(text.replace("train: images/train", "train: images/absent"))
    with pytest.raises(InputError, match="--strict-groups: the checkpoint does not say"):
        val.run(weights=str(place / "forgetful.pt"), data=str(place / "trainless.yaml"), strict_groups=True)
    warnings, leakage = warned("trainless.yaml")
    assert len(warnings) == 1 and "train cannot be read" in warnings[0] and not leakage


def test_a_checkpoint_of_shuffled_labels_is_validated_on_shuffled_labels_and_says_so(place: Path) -> None:
    folder = fit(place, "permuted", permute_labels=True)
    trained = json.loads((folder / "metrics.json").read_text())
    content = val.run(
        weights=str(folder / "weights" / "last.pt"), data=str(place / "small.yaml"), batch_size=16,
        project=str(place / "val"), bootstrap=0,
    )  # fmt: skip
    assert any("shuffled between patients" in warning for warning in content["warnings"])
    assert content["view"]["confusion"] == trained["view"]["confusion"]
    assert content["loss"] == pytest.approx(trained["loss"], abs=1e-6)
    assert read(folder / "weights" / "best.pt").content["permuted_labels"] == 42
