"""That each pinned figure is compared by some test.

What is held here is only that the test file names the pinned file and the key in quotes; how close ours must be stands
in those tests.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
ALL = "*"  # compared as one mapping, whatever its keys
COMPARED = {
    "ap.npz": {"test_metrics.py": "tp conf pred_cls target_cls tp_n fp_n p r f1 ap classes"},
    "boxes.npz": {"test_boxes.py": "a_xywh b_xywh iou giou diou ciou"},
    "confusion_matrix.json": {"test_metrics.py": "detections labels matrix_rows_predicted"},
    "fitness.json": {"test_metrics.py": "p_r_map50_map fitness"},
    "geometry.json": {
        "test_letterbox.py": "letterbox shape_hw size auto out_hw ratio_wh pad_wh",
        "test_boxes.py": "scale_boxes from_hw to_hw xyxy out",
        "test_labels.py": "segments points xywh",
    },
    "hyp_no_augmentation_values.json": {"test_config.py": ALL},
    "loss_variants.json": {"test_loss.py": "focal smoothing pos_weight anchor_t hyp total_times_batch box_obj_cls"},
    "nms.npz": {"test_boxes.py": "pred detect val agnostic classes"},
    "schedule.json": {
        "test_schedule.py": "epochs lrf linear cosine ema_decay_at_update",
        "test_optim.py": "sgd_groups_yolov5s_nc4 tensors elements weight_decay",
        "test_yolo.py": "parameters",
    },
    "tiny_forward.npz": {
        "test_yolo.py": "x train_raw eval_raw eval_decoded eval_decoded_fused",
        "test_loss.py": "targets",
    },
    "tiny_loss.json": {"test_loss.py": "total_times_batch box_obj_cls grad_norm"},
    "tiny_state_dict.npz": {"conftest.py": ALL},  # names, shapes and types in test_yolo.py, by the fixture
    "yolov5_tiny.pt": {"test_legacy.py": ALL},
}  # fmt: skip


def keys(content: Any, depth: int = 2) -> set[str]:
    """Names in a json file, two levels deep; networks and tensors (no identifiers) are values of their mapping."""
    if isinstance(content, list):
        return set().union(*(keys(item, depth) for item in content[:1]))
    if not isinstance(content, dict) or not depth:
        return set()
    return {key for key in content if key.isidentifier()}.union(*(keys(item, depth - 1) for item in content.values()))


def keys_of(path: Path) -> set[str]:
    """What a file holds; numbered arrays count as one."""
    if path.suffix == ".json":
        return keys(json.loads(path.read_text()))
    with np.load(path) as arrays:
        return {re.sub(r"_\d+$|(?<=raw)\d+$", "", key) for key in arrays.files}


def test_every_file_is_in_the_table() -> None:
    assert sorted(path.name for path in (HERE / "golden").iterdir()) == sorted(COMPARED)


@pytest.mark.parametrize("name", COMPARED)
def test_every_key_is_named_by_the_test_that_compares_it(name: str) -> None:
    named = [key for words in COMPARED[name].values() for key in words.split()]
    assert named == [ALL] or set(named) == keys_of(HERE / "golden" / name)
    for file, words in COMPARED[name].items():
        text = (HERE / file).read_text(encoding="utf-8")
        assert name in text, file
        missing = [key for key in words.split() if key != ALL and not re.search(rf"[\"']{key}[\"'{{]", text)]
        assert not missing, (file, missing)
