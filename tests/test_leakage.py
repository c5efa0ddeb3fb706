"""utils/leakage.py: shared patients and near-identical frames are found and counted; names stay out of checkpoints."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.phantoms import encode, settle, write_yaml
from utils import leakage
from utils.config import load_dataset_config
from utils.dataset import EchoDataset
from utils.leakage import BYTES, NEAR_IDENTICAL, Example, Fingerprint, Hashes, Leakage, compare, hash_frame, nearest
from utils.letterbox import Image, resize
from utils.log import InputError
from utils.preprocess import Preprocessor

SIZE = 96


def fan(seed: int, height: int = 192, width: int = 256) -> Image:
    """A frame (H, W, 3) of random tissue in a fan on black, all fans alike."""
    coarse = np.random.default_rng(seed).integers(0, 220, (12, 16, 3), np.uint8)
    tissue = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    sector = np.zeros((height, width), np.uint8)
    cv2.ellipse(sector, (width // 2, 0), (height - 10, height - 10), 0, 45, 135, 1, -1)
    return tissue * sector[..., None]


def recompressed(image: Image) -> Image:
    """The frame after JPEG at quality 75."""
    data = np.frombuffer(encode(".jpg", image, cv2.IMWRITE_JPEG_QUALITY, 75), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def brightened(image: Image) -> Image:
    return (image * 1.1).clip(0, 255).astype(np.uint8)


def enlarged(image: Image) -> Image:
    return resize(image, 700)


def write(folder: Path, part: str, frames: Mapping[str, Image]) -> None:
    """Frames of a part by name, without labels."""
    (folder / "images" / part).mkdir(parents=True)
    for name, image in frames.items():
        (folder / "images" / part / name).write_bytes(encode(".png", image[..., ::-1]))


@pytest.fixture
def parts(tmp_path: Path) -> Callable[..., tuple[EchoDataset, EchoDataset]]:
    """Makes a dataset of train and val frames, and gives its two parts."""

    def make(train: Mapping[str, Image], val: Mapping[str, Image], **keys: Any) -> tuple[EchoDataset, EchoDataset]:
        write(tmp_path, "train", train)
        write(tmp_path, "val", val)
        config = load_dataset_config(write_yaml(tmp_path, **keys))
        return EchoDataset(config, "train", SIZE), EchoDataset(config, "val", SIZE)

    return make


Parts = Callable[..., tuple[EchoDataset, EchoDataset]]
FOUND = Leakage("val", 8, 4, 2, 6, 3, (Example(Path("v/a.png"), Path("t/b.png"), 0.0),))


def test_shared_patients_and_their_frames_are_counted(parts: Parts) -> None:
    train, val = parts(
        {"p01-f1.png": fan(1), "p02-f1.png": fan(2), "p02-f2.png": fan(3)},
        {"p02-f7.png": fan(4), "p02-f8.png": fan(5), "p03-f1.png": fan(6), "p01-f9.png": fan(7), "other.png": fan(8)},
    )
    found = compare(Fingerprint.of(train), val)
    assert (found.part, found.frames, found.patients) == ("val", 5, 4)  # an unmatched name is a patient of its own
    assert (found.shared_patients, found.shared_patient_frames) == (2, 3)
    assert found.near_identical_frames == 0 and found.examples == ()
    assert found.found


def test_parts_of_different_patients_have_nothing_in_common(parts: Parts) -> None:
    names = [f"p{patient:02}-f1.png" for patient in range(40)]
    train, val = parts(
        {n: fan(i) for i, n in enumerate(names[:30])}, {n: fan(30 + i) for i, n in enumerate(names[30:])}
    )
    found = compare(Fingerprint.of(train), val)
    assert (found.patients, found.shared_patients, found.shared_patient_frames) == (10, 0, 0)
    assert found.near_identical_frames == 0 and not found.found


@pytest.mark.parametrize("change", [np.copy, recompressed, brightened, enlarged], ids=lambda change: change.__name__)
def test_a_copy_is_found_and_named(parts: Parts, change: Callable[[Image], Image]) -> None:
    train, val = parts(
        {f"p01-f{i}.png": fan(i) for i in range(8)}, {"p02-f0.png": fan(100), "p02-f1.png": change(fan(5))}
    )
    found = compare(Fingerprint.of(train), val)
    assert found.near_identical_frames == 1 and found.shared_patients == 0 and found.found
    (example,) = found.examples
    assert example.file == val.files[1] and example.trained == train.files[5]
    assert 0 <= example.distance < NEAR_IDENTICAL / 2


def test_a_copy_is_found_at_another_image_size(parts: Parts) -> None:
    train, val = parts({"p01-f1.png": fan(1), "p01-f2.png": fan(2)}, {"p02-f1.png": fan(2), "p02-f2.png": fan(3)})
    for size in (64, 256):
        found = compare(Fingerprint.of(train), EchoDataset(val.config, "val", size))
        assert [(example.file, example.trained) for example in found.examples] == [(val.files[0], train.files[1])]


def test_a_part_is_identical_to_itself_and_phantom_patients_are_not(dataset: EchoDataset) -> None:
    trained = Fingerprint.of(dataset)
    itself = compare(trained, dataset)
    assert itself.near_identical_frames == itself.shared_patient_frames == itself.frames == len(dataset)
    assert all(example.distance == 0 for example in itself.examples) and len(itself.examples) == leakage.EXAMPLES
    others = compare(trained, EchoDataset(dataset.config, "val", dataset.size))
    assert others.near_identical_frames == others.shared_patients == 0


def test_examples_are_the_nearest_first_and_keep_their_files_when_the_part_is_rearranged(parts: Parts) -> None:
    tall = {f"p01-f{i}.png": fan(i, 256, 192) for i in range(2)}
    train, val = parts(
        {**tall, "p01-f7.png": fan(7)},
        {"p02-f0.png": recompressed(fan(7)), "p02-f1.png": fan(1, 256, 192), "p02-f2.png": fan(50)},
    )
    trained, files = Fingerprint.of(train), list(train.files)
    train.arrange_by_shape(1, 32)
    assert train.files != files
    first, second = compare(trained, val).examples
    assert (first.file, first.trained, first.distance) == (val.files[1], files[1], 0)
    assert (second.file, second.trained) == (val.files[0], files[2]) and second.distance > 0


def test_without_a_cache_the_frames_are_the_same(parts: Parts) -> None:
    train, _ = parts({f"p01-f{i}.png": fan(i) for i in range(3)}, {"p02-f0.png": fan(9)})
    uncached = EchoDataset(train.config, "train", SIZE, cache="none")
    np.testing.assert_array_equal(Fingerprint.of(uncached).hashes, Fingerprint.of(train).hashes)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Image]:
    """The frames that are hashed, as they are."""
    images: list[Image] = []

    def counting(image: Image) -> NDArray[np.uint8]:
        images.append(image)
        return hash_frame(image)

    monkeypatch.setattr(leakage, "hash_frame", counting)
    return images


def test_frames_are_hashed_once_for_a_size_and_filters(parts: Parts, tmp_path: Path, hashed: list[Image]) -> None:
    train, _ = parts({f"p01-f{i}.png": fan(i) for i in range(4)}, {"p02-f0.png": fan(9)})
    settle(tmp_path)
    train = EchoDataset(train.config, "train", SIZE)
    first = Fingerprint.of(train)
    assert len(hashed) == 4
    for mode in ("ram", "none", "disk"):
        again = Fingerprint.of(EchoDataset(train.config, "train", SIZE, cache=mode))
        np.testing.assert_array_equal(again.hashes, first.hashes)
    assert len(hashed) == 4
    Fingerprint.of(EchoDataset(train.config, "train", 2 * SIZE))
    assert len(hashed) == 8
    Fingerprint.of(EchoDataset(train.config, "train", SIZE, preprocessor=Preprocessor(gamma=0.5)))
    assert len(hashed) == 12


def test_a_frame_that_changed_is_hashed_again(parts: Parts, tmp_path: Path, hashed: list[Image]) -> None:
    train, _ = parts({f"p01-f{i}.png": fan(i, 192 + i) for i in range(4)}, {"p02-f0.png": fan(9)})
    settle(tmp_path)
    before = Fingerprint.of(EchoDataset(train.config, "train", SIZE))
    train.files[1].write_bytes(encode(".png", fan(20)))
    changed = EchoDataset(train.config, "train", SIZE)
    hashed.clear()
    after = Fingerprint.of(changed)
    assert len(hashed) == 1
    np.testing.assert_array_equal(after.hashes[[0, 2, 3]], before.hashes[[0, 2, 3]])
    np.testing.assert_array_equal(after.hashes[1], hash_frame(changed.frame(1).image))
    changed.arrange_by_shape(2, 32)
    rearranged = Fingerprint.of(changed)
    for path, row in zip(changed.files, rearranged.hashes, strict=True):
        np.testing.assert_array_equal(row, after.hashes[train.files.index(path)])


def test_a_frame_that_changes_while_it_is_opened_is_not_mistaken(parts: Parts, tmp_path: Path) -> None:
    train, _ = parts({"p01-f1.png": fan(1), "p01-f2.png": fan(2)}, {"p02-f0.png": fan(9)})
    settle(tmp_path)
    opened = EchoDataset(train.config, "train", SIZE)
    opened.files[0].write_bytes(encode(".png", fan(3)))  # between decoding and hashing
    settle(tmp_path, 30)
    Fingerprint.of(opened)
    now = EchoDataset(train.config, "train", SIZE)
    np.testing.assert_array_equal(Fingerprint.of(now).hashes[0], hash_frame(now.frame(0).image))


@pytest.mark.parametrize("colours", [(0, 0), (0, 255)], ids=["both black", "black and white"])
def test_single_blank_frames_are_near_identical(parts: Parts, colours: tuple[int, int]) -> None:
    first, second = (np.full((20, 30, 3), colour, np.uint8) for colour in colours)
    train, val = parts({"p01-f1.png": first}, {"p02-f1.png": second})
    found = compare(Fingerprint.of(train), val)
    assert (found.frames, found.near_identical_frames, found.examples[0].distance) == (1, 1, 0)


def test_a_blank_frame_resembles_no_frame_that_shows_something(parts: Parts) -> None:
    train, val = parts({f"p01-f{i}.png": fan(i) for i in range(3)}, {"p02-f1.png": np.zeros((48, 64, 3), np.uint8)})
    assert compare(Fingerprint.of(train), val).near_identical_frames == 0


@pytest.mark.parametrize("missing", ["part", "training part"])
def test_without_a_group_frames_are_still_compared(parts: Parts, missing: str) -> None:
    train, val = parts({"p01-f1.png": fan(1)}, {"p01-f2.png": fan(1), "p03-f1.png": fan(3)})
    bare = replace(train.config, group=None)
    if missing == "part":
        val = EchoDataset(bare, "val", SIZE)
    else:
        train = EchoDataset(bare, "train", SIZE)
    found = compare(Fingerprint.of(train), val)
    assert found.patients == (None if missing == "part" else 2)
    assert found.shared_patients is None and found.shared_patient_frames is None
    assert found.near_identical_frames == 1 and found.found
    whose = "val" if missing == "part" else "the training part"
    assert found.lines()[0] == f"patients of val could not be compared: the dataset of {whose} names no group"
    assert found.content()["shared_patients"] is None and found.content()["shared_patient_share"] is None
    assert not replace(found, near_identical_frames=0).found


def plain_nearest(hashes: Hashes, others: Hashes) -> tuple[list[float], list[int]]:
    """The same as ``nearest``, pair by pair on Python's whole numbers."""
    rows, columns = ([int.from_bytes(row.tobytes(), "big") for row in array] for array in (hashes, others))
    distances, partners = [], []
    for x in rows:
        to = [bin(x ^ y).count("1") / max(bin(x | y).count("1"), 1) for y in columns]
        distances.append(min(to))
        partners.append(to.index(min(to)))
    return distances, partners


@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_comparing_in_blocks_equals_the_double_loop(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(leakage, "ROWS", rows)
    rng = np.random.default_rng(0)
    hashes, others = (rng.integers(0, 256, (count, BYTES), np.uint8) for count in (19, 31))
    hashes[4] = others[[7, 8]] = 0
    hashes[5] = others[9] = others[10] = 255
    hashes[6], hashes[7] = others[20], others[21] ^ 1
    distances, partners = nearest(hashes, others)
    expected, expected_partners = plain_nearest(hashes, others)
    np.testing.assert_allclose(distances, expected, rtol=1e-6)
    assert partners.tolist() == expected_partners
    assert partners[4:8].tolist() == [7, 9, 20, 21] and distances[4:7].tolist() == [0, 0, 0] and distances[7] > 0


@pytest.mark.parametrize(("differing", "count"), [(17, 1), (18, 0)])
def test_the_limit_itself_counts(parts: Parts, monkeypatch: pytest.MonkeyPatch, differing: int, count: int) -> None:
    known = np.zeros(BYTES * 8, bool)
    known[:50] = True
    own = known.copy()
    own[:differing] = False  # 17 of 50: the limit
    _, val = parts({"p01-f1.png": fan(1)}, {"p02-f1.png": fan(2)})
    monkeypatch.setattr(leakage, "hash_frame", lambda image: np.packbits(own))
    assert compare(Fingerprint(None, np.packbits(known)[None], (None,)), val).near_identical_frames == count


def test_a_bit_tells_whether_the_cell_below_is_brighter() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (25, 24), np.uint8)
    expected = np.packbits(grey[1:] > grey[:-1])
    np.testing.assert_array_equal(hash_frame(np.repeat(grey[..., None], 3, 2)), expected)
    assert expected.shape == (BYTES,)


@pytest.mark.parametrize("group", [r"^(.*)-f\d+", None])
def test_a_fingerprint_survives_a_checkpoint(parts: Parts, group: str | None) -> None:
    train, val = parts(
        {"Anna Example-f1.png": fan(1), "Bernd-f1.png": fan(2)},
        {"Anna Example-f2.png": fan(3), "Carl-f1.png": fan(2)},
        group=group,
    )
    trained = Fingerprint.of(train)
    file = io.BytesIO()
    torch.save({"fingerprint": trained.content()}, file)
    file.seek(0)
    read = Fingerprint.from_content(torch.load(file, weights_only=True)["fingerprint"], Path("best.pt"))
    assert read.patients == trained.patients and set(read.files) == {None}
    np.testing.assert_array_equal(read.hashes, trained.hashes)
    before, after = compare(trained, val), compare(read, val)
    assert after == replace(before, examples=(Example(val.files[1], None, 0.0),))
    assert before.examples == (Example(val.files[1], train.files[1], 0.0),)
    assert before.shared_patients == (None if group is None else 1)


def test_no_name_is_in_what_a_checkpoint_keeps(parts: Parts) -> None:
    train, _ = parts({"Example-f1.png": fan(1), "Muster-f1.png": fan(2)}, {"p1-f1.png": fan(3)}, group=r"^(\w+)-f\d+")
    content = Fingerprint.of(train).content()
    file = io.BytesIO()
    torch.save(content, file)
    assert not any(name in file.getvalue() for name in (b"Example", b"Muster", b"-f1", b"png"))
    assert len(content["patients"]) == 2 and all(re.fullmatch("[0-9a-f]{16}", word) for word in content["patients"])


GOOD = {"hash": "dhash_vertical 24", "patients": ["ab"], "hashes": torch.zeros(2, BYTES, dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hash": "phash 8"}, "of kind dhash_vertical 24, got 'phash 8'"),
        ({"hash": None}, "of kind dhash_vertical 24, got None"),
        ({"patients": "p01"}, "patients as words, got str"),
        ({"patients": [1]}, "patients as words, got list"),
        ({"hashes": [[0] * BYTES]}, "hashes as bytes, got list"),
        ({"hashes": torch.zeros(2, BYTES)}, "hashes as bytes, got Tensor"),
        ({"hashes": torch.zeros(BYTES, dtype=torch.uint8)}, "hashes as bytes, got Tensor"),
        ({"hashes": torch.zeros(2, 8, dtype=torch.uint8)}, r"of 72 bytes a frame, got \(2, 8\)"),
        ({"hashes": torch.zeros(0, BYTES, dtype=torch.uint8)}, r"of 72 bytes a frame, got \(0, 72\)"),
    ],
)
def test_a_bad_fingerprint_is_told(change: dict[str, Any], told: str) -> None:
    assert len(Fingerprint.from_content(GOOD, Path("best.pt")).hashes) == 2
    with pytest.raises(InputError, match=f"^best.pt: expected .*{told}$"):
        Fingerprint.from_content(GOOD | change, Path("best.pt"))


def test_what_was_found_is_said_in_a_line_a_kind() -> None:
    assert FOUND.lines() == [
        "2 of 4 patients of val are in the training part, too (75% of its frames): its figures flatter",
        "3 of 8 frames of val (37.5%) look nearly identical to training frames: its figures flatter; "
        "the nearest: a.png to b.png",
    ]
    assert FOUND.warnings == [FOUND.lines()[0], FOUND.lines()[1].split("; ")[0]]
    one = Leakage("test", 8, 4, 1, 1, 1, (Example(Path("v/a.png"), None, 0.1),))
    assert one.lines() == [
        "1 of 4 patients of test is in the training part, too (12.5% of its frames): its figures flatter",
        "1 of 8 frames of test (12.5%) looks nearly identical to training frames: its figures flatter; "
        "the nearest: a.png",
    ]


def test_that_nothing_was_found_is_said() -> None:
    nothing = Leakage("val", 8, 4, 0, 0, 0, ())
    assert nothing.warnings == [] and nothing.columns() == {"leakage/patients": 0, "leakage/near_identical": 0}
    assert nothing.lines() == [
        "none of 4 patients of val is in the training part",
        "none of 8 frames of val looks nearly identical to a training frame",
    ]


def test_a_training_remembers_whom_the_one_it_starts_from_has_seen(parts: Parts) -> None:
    train, val = parts(
        {"p01-f1.png": fan(1), "p02-f1.png": fan(2)}, {"p02-f1.png": fan(2), "p03-f1.png": fan(3), "p03-f2.png": fan(4)}
    )
    now, earlier = Fingerprint.of(train), Fingerprint.of(val)
    both = now.joined(Fingerprint.from_content(earlier.content(), Path("start.pt")))
    assert set(both.patients or ()) == {*(now.patients or ()), *(earlier.patients or ())}
    assert len(both.hashes) == len(both.files) == 4 and both.files[:2] == now.files  # the frame of p02 once
    found = compare(both, val)
    assert (found.shared_patients, found.near_identical_frames) == (2, 3)
    assert now.joined(replace(earlier, patients=None)).patients is None
    again = both.joined(now)
    assert again.patients == both.patients and len(again.hashes) == 4


def test_what_could_not_be_compared_is_a_warning_and_no_number_in_the_log() -> None:
    unknown = Leakage("val", 8, None, None, None, 0, ())
    assert unknown.warnings == unknown.lines()[:1] and "could not be compared" in unknown.warnings[0]
    assert not unknown.found and math.isnan(unknown.columns()["leakage/patients"])


def test_the_content_is_plain_numbers() -> None:
    assert FOUND.content() == {
        "frames": 8,
        "patients": 4,
        "shared_patients": 2,
        "shared_patient_frames": 6,
        "shared_patient_share": 0.75,
        "near_identical_frames": 3,
        "near_identical_share": 0.375,
    }


def test_counts_are_plain_numbers_for_json(parts: Parts) -> None:
    train, val = parts({"p01-f1.png": fan(1)}, {"p01-f2.png": fan(1)})
    content = compare(Fingerprint.of(train), val).content()
    assert {type(value) for value in content.values()} == {int, float}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("near", [True, False])
def test_either_kind_is_a_find(shared: bool, near: bool) -> None:
    found = Leakage("val", 8, 4, int(shared), int(shared), int(near), ())
    assert found.found == (shared or near)
