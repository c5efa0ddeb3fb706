"""What was found in the DICOM clips of a study as a DICOM structured report, TID 1500 (PS3.16), by highdicom.

The coordinates are pixels of two-dimensional frames, so the report is a Comprehensive SR; there is nothing in it that
would need a Comprehensive 3D SR.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from utils import extras
from utils import report_codes as codes
from utils.files import write_whole
from utils.identifiers import DATE, Identifiers
from utils.log import LOGGER, InputError, one_line, printable
from utils.report_document import PURPOSE, Group, Number, document, groups_in

UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
TEXTS = {"PatientID": 64, "PatientName": 64, "ReferringPhysicianName": 64, "AccessionNumber": 16, "StudyID": 16}
CLOCK = re.compile(r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?")
DATES = {"PatientBirthDate": DATE, "StudyDate": DATE, "StudyTime": CLOCK}
PICTURE = ("NumberOfFrames",)


def write_structured_report(
    folder: Path, study: Mapping[str, Any], report: Mapping[str, Any], sources: Mapping[str, Path],
    identifiers: Identifiers,
) -> Path | None:  # fmt: skip
    """Write what was found in the DICOM clips of a study; it counts as written once it reads back as it was meant.

    Args:
        folder: where the report goes, under the study's id.
        study: an item of a report's ``studies``.
        report: of ``echo-study-report``, for its notice, weights, settings and date.
        sources: the DICOM file of a clip's id.
        identifiers: what the patient, the study and its clips are called.

    Returns:
        The file; None where no clip of the study is DICOM.

    Raises:
        InputError: a package is missing; a source has no UIDs, is of another study, or has fewer frames than were
            found in it; the report does not read back.
    """
    clips = [clip for clip in study["clips"] if clip["id"] in sources]
    if not clips:
        LOGGER.info("%s: no structured report, as none of its clips is DICOM", study["id"])
        return None
    extras.require(("pydicom", "highdicom.sr"), PURPOSE)
    path = folder / (re.sub(r"[^\w.-]", "_", str(study["id"])) + ".dcm")
    with _quiet():
        headers = [_header(sources[clip["id"]], identifiers) for clip in clips]
        _check_one_study(headers, [sources[clip["id"]] for clip in clips])
        groups = [
            group
            for clip, header in zip(clips, headers, strict=True)
            for group in _groups_of(clip, header, sources[clip["id"]])
        ]
        try:
            content = _encoded(document(groups, headers, report))
            difference = _difference(content, groups, headers)
        except InputError:
            raise
        except Exception as error:  # highdicom checks what it is given in many ways
            raise InputError(f"{path}: expected what a structured report can hold, got: {one_line(error)}") from error
    if difference:
        raise InputError(f"{path}: expected a structured report that reads back as it was meant, got {difference}")
    write_whole(path, lambda file: file.write(content))
    if path.read_bytes() != content:
        path.unlink()
        raise InputError(f"{path}: expected the structured report that was written, read something else")
    return path


def _header(path: Path, identifiers: Identifiers) -> Any:
    """What a report needs of a clip's file: patient, study and UIDs, as they may leave; what is absent is empty."""
    pydicom = extras.load("pydicom", PURPOSE)
    tags = [*UIDS, *TEXTS, *DATES, *PICTURE, "PatientSex"]
    try:
        source = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
        header = pydicom.Dataset()
        for keyword in UIDS:
            setattr(header, keyword, _uid(source, keyword, path))
        for keyword, longest in TEXTS.items():
            setattr(header, keyword, _text(source, keyword)[:longest].strip())
        for keyword, form in DATES.items():
            setattr(header, keyword, _moment(_text(source, keyword), form))
        sex = _text(source, "PatientSex")
        header.PatientSex = sex if sex in ("M", "F", "O") else ""
        if frames := _text(source, "NumberOfFrames"):
            header.NumberOfFrames = int(frames)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: expected a DICOM file, got {type(error).__name__}: {one_line(error)}") from error
    return identifiers.anonymised(header)


def _uid(source: Any, keyword: str, path: Path) -> str:
    text = _text(source, keyword)
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", text, re.ASCII) or len(text) > 64:
        raise InputError(f"{path}: expected DICOM with a {keyword}, got {printable(text) or 'none'}")
    return text


def _text(source: Any, keyword: str) -> str:
    """An element's value on one line; empty where it is absent or not what its type says."""
    try:
        value = source.get(keyword)
    except Exception:  # pydicom converts a value when it is asked for
        return ""
    shown = "" if value is None else str(value)
    return "".join(character if character.isprintable() and character != "\\" else " " for character in shown).strip()


def _moment(text: str, form: re.Pattern[str]) -> str:
    with contextlib.suppress(ValueError):
        if form.fullmatch(text) and (form is not DATE or datetime.strptime(text, "%Y%m%d")):
            return text
    return ""


def _check_one_study(headers: Iterable[Any], paths: Iterable[Path]) -> None:
    first, *others = zip(headers, paths, strict=True)
    for header, path in others:
        if header.StudyInstanceUID != first[0].StudyInstanceUID:
            raise InputError(f"{path}: expected a clip of the same study as {first[1]}, got one of another")


def _groups_of(clip: Mapping[str, Any], header: Any, path: Path) -> Iterator[Group]:
    """A group of the clip itself, with its view, then one a track."""
    several, instance = "NumberOfFrames" in header, str(header.SOPInstanceUID)

    def number(frame: int) -> int | None:
        if not 0 <= frame < (header.NumberOfFrames if several else 1):
            raise InputError(f"{path}: expected a frame {frame} (from 0), got {header.get('NumberOfFrames', 1)} frames")
        return frame + 1 if several else None

    seen, answers = clip["view"], []
    numbers = _numbers((codes.FRAMES, clip["frames"], codes.FRAMES_UNIT, None))
    if seen is not None:
        numbers += _numbers(
            (codes.CERTAIN_FEATURE, seen["confidence"], codes.PERCENT, None),
            (codes.SHARE, seen["agreement"], codes.PERCENT, None),
        )
        answers = [(codes.IMAGE_VIEW, codes.view(seen["name"])), codes.uncertain(seen["uncertain"])]
    yield Group(clip["id"], instance, tuple(numbers), tuple(answers))
    for track in clip["tracks"]:
        peak, onset, largest = track["peak"], track["onset"], track["largest"]
        width, height = largest["cm"] or (None, None)
        found = _numbers(
            (codes.CERTAIN_FINDING, peak["confidence"], codes.PERCENT, number(peak["frame"])),
            (codes.FRAMES, track["frames"], codes.FRAMES_UNIT, None),
            (codes.ONSET, onset["time"], codes.SECOND, number(onset["frame"])),
            (codes.WIDTH, width, codes.CM, None),
            (codes.HEIGHT, height, codes.CM, None),
        )
        corners = tuple(float(np.float32(corner)) for corner in largest["box"])  # as DICOM holds them
        yield Group(
            f"{clip['id']} track {track['id']}", instance, tuple(found), (codes.uncertain(track["uncertain"]),),
            number(largest["frame"]), corners, codes.finding(track["name"], track["class"]), codes.site(track["name"]),
        )  # fmt: skip


def _numbers(*asked: tuple[codes.Code, float | None, codes.Code, int | None]) -> list[Number]:
    """Those that are known; shares as per cent."""
    return [
        Number(name, round(100 * value, 4) if unit == codes.PERCENT else value, unit, frame)
        for name, value, unit, frame in asked
        if value is not None and math.isfinite(value)
    ]


def _encoded(report: Any) -> bytes:
    with io.BytesIO() as file:
        report.save_as(file, enforce_file_format=True)
        return file.getvalue()


def _difference(content: bytes, groups: list[Group], headers: list[Any]) -> str:
    """What an encoded report says otherwise than it was meant to; empty where all is well."""
    written = extras.load("highdicom.sr", PURPOSE).srread(io.BytesIO(content))
    flags = [written.CompletionFlag, written.VerificationFlag, written.PreliminaryFlag]
    if flags != ["PARTIAL", "UNVERIFIED", "PRELIMINARY"]:
        return f"the flags {flags}"
    for keyword in ("StudyInstanceUID", *TEXTS, *DATES, "PatientSex"):
        if str(written.get(keyword) or "") != str(headers[0].get(keyword) or ""):
            return f"another {keyword}"
    evidence = {(str(instance), str(kind)) for _, _, instance, kind in written.get_evidence()}
    if evidence != {(str(header.SOPInstanceUID), str(header.SOPClassUID)) for header in headers}:
        return f"evidence of {len(evidence)} clips for {len(headers)}, or of others"
    found = groups_in(written)
    if len(found) != len(groups):
        return f"{len(found)} measurement groups for {len(groups)}"
    by_name = {group.identifier: group for group in found}
    wrong = [group.identifier for group in groups if by_name.get(group.identifier) != group]
    return f"other values of {wrong[0]}" if wrong else ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the packages' remarks off the screen: they repeat names of patients."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
