"""The content of a DICOM structured report, TID 1500 (PS3.16), in highdicom's words and out of them."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from utils import extras
from utils import report_codes as codes
from utils.report_codes import Code

PURPOSE = "a structured report"
SOFTWARE, VERSION = "echo-joint", "0.1.0"
CATEGORY = "276214006"  # SNOMED CT's for the category of a finding, which highdicom counts among the answers
RETIRED, STANDARD = ("1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.6"), "1.2.840.10008."  # of ultrasound
STILL, CLIP = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"  # ultrasound, of one frame and of several


@dataclass(frozen=True)
class Number:
    """A measurement.

    Attributes:
        frame: that it is of, from 1 as DICOM counts; None for all frames, or where there is but one.
    """

    name: Code
    value: float
    unit: Code
    frame: int | None = None


@dataclass(frozen=True)
class Group:
    """A measurement group: of a track with a region in one frame, or of a whole clip without.

    Attributes:
        instance: SOPInstanceUID of the clip, as it is written.
        frame: of the region, from 1; None in a clip of one frame.
        corners: x1 y1 x2 y2 of the region, in pixels.
        answers: name and value of what is no number.
    """

    identifier: str
    instance: str
    numbers: tuple[Number, ...]
    answers: tuple[tuple[Code, Code], ...]
    frame: int | None = None
    corners: tuple[float, ...] | None = None
    finding: Code | None = None
    site: Code | None = None


def document(groups: Iterable[Group], headers: list[Any], report: Mapping[str, Any]) -> Any:
    """A report as highdicom's dataset.

    Args:
        headers: of the clips, with what highdicom takes from them: patient, study and UIDs; empty where unknown.
        report: of ``echo-study-report``, for its notice, weights, settings and date.
    """
    hd, sr = extras.load("highdicom", PURPOSE), extras.load("highdicom.sr", PURPOSE)
    writer = _Writer(headers, report)
    device = sr.DeviceObserverIdentifyingAttributes(
        f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, report['weights']['sha256']).int}",  # the same of the same network
        SOFTWARE, SOFTWARE, f"{SOFTWARE} {VERSION}, not a medical device",
    )  # fmt: skip
    observer = sr.ObserverContext(writer.code(codes.DEVICE), device)
    content = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=observer), writer.code(codes.ECHOCARDIOGRAPHY),
        [writer.group(group) for group in groups],
    )  # fmt: skip
    remarks = sr.ContainerContentItem(writer.code(codes.EVALUATIONS), relationship_type="CONTAINS")
    notice = sr.TextContentItem(writer.code(codes.COMMENT), report["notice"], relationship_type="CONTAINS")
    remarks.ContentSequence = sr.ContentSequence([notice])
    content[0].ContentSequence.append(remarks)
    created = datetime.fromisoformat(report["created"]).astimezone()
    scheme = hd.coding_schemes.CodingSchemeIdentificationItem(
        codes.SCHEME, codes.SCHEME_NAME, responsible_organization=SOFTWARE
    )
    made = sr.ComprehensiveSR(
        writer.evidence, content, _fresh_uid(), 1, _fresh_uid(), 1, SOFTWARE, manufacturer_model_name=SOFTWARE,
        software_versions=VERSION, series_description="Research software, not a medical device",
        content_date=created.strftime("%Y%m%d"), content_time=created.strftime("%H%M%S"), coding_schemes=[scheme],
        specific_character_set="ISO_IR 192",
    )  # fmt: skip
    made.InstanceCreationDate, made.InstanceCreationTime = made.ContentDate, made.ContentTime
    made.walk(writer.restore_class)
    return made


class _Writer:
    """Puts groups into highdicom's words.

    Attributes:
        evidence: headers of the clips; classes that highdicom does not know, retired or a maker's own, are replaced.
    """

    def __init__(self, headers: list[Any], report: Mapping[str, Any]) -> None:
        self.sr = extras.load("highdicom.sr", PURPOSE)
        self.classes = {str(header.SOPInstanceUID): str(header.SOPClassUID) for header in headers}
        self.evidence = [copy.deepcopy(header) for header in headers]
        for header in self.evidence:
            if header.SOPClassUID in RETIRED or not header.SOPClassUID.startswith(STANDARD):
                header.SOPClassUID = CLIP if "NumberOfFrames" in header else STILL
        self.known = {str(header.SOPInstanceUID): str(header.SOPClassUID) for header in self.evidence}
        settings = " ".join(f"{name}={value}" for name, value in report["settings"].items())
        self.algorithm = self.sr.AlgorithmIdentification(
            SOFTWARE, VERSION, [f"weights sha256={report['weights']['sha256']}", settings]
        )

    def code(self, code: Code) -> Any:
        return self.sr.CodedConcept(*code)

    def group(self, group: Group) -> Any:
        sr, given = self.sr, (self.known[group.instance], group.instance)
        words: dict[str, Any] = {
            "tracking_identifier": sr.TrackingIdentifier(uid=_fresh_uid(), identifier=group.identifier),
            "measurements": [self._measurement(number, given) for number in group.numbers],
            "qualitative_evaluations": [
                sr.QualitativeEvaluation(self.code(name), self.code(value)) for name, value in group.answers
            ],
        }
        if group.corners is None:
            return sr.MeasurementsAndQualitativeEvaluations(
                **words, source_images=[sr.SourceImageForMeasurementGroup(*given)]
            )
        assert group.finding
        x1, y1, x2, y2 = group.corners
        corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)])
        source = sr.SourceImageForRegion(*given, group.frame and [group.frame])
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            **words, referenced_region=sr.ImageRegion("POLYLINE", corners, source),
            finding_type=self.code(group.finding), finding_category=self.code(codes.FINDING),
            finding_sites=[sr.FindingSite(self.code(group.site))] if group.site else None,
        )  # fmt: skip

    def _measurement(self, number: Number, given: tuple[str, str]) -> Any:
        sure = number.name in (codes.CERTAIN_FINDING, codes.CERTAIN_FEATURE)
        images = [self.sr.SourceImageForMeasurement(*given, [number.frame])] if number.frame else None
        return self.sr.Measurement(
            self.code(number.name), number.value, self.code(number.unit), referenced_images=images,
            algorithm_id=self.algorithm if sure else None,
            derivation=self.code(codes.MAXIMUM) if number.name == codes.CERTAIN_FINDING else None,
        )  # fmt: skip

    def restore_class(self, item: Any, element: Any) -> None:
        """For ``walk``: refer to a clip by the class that it has."""
        if element.keyword == "ReferencedSOPClassUID":
            element.value = self.classes.get(str(item.get("ReferencedSOPInstanceUID")), element.value)


def groups_in(document: Any) -> list[Group]:
    """The measurement groups of a report, as highdicom reads it."""
    content = document.content
    found = [*content.get_image_measurement_groups(), *content.get_planar_roi_measurement_groups()]
    return [_group_read(group) for group in found]


def _group_read(group: Any) -> Group:
    """A measurement group as highdicom reads it."""

    def frame(image: Any) -> int | None:
        numbers = image.referenced_frame_numbers
        return None if numbers is None else int(numbers[0])

    region = group.roi if hasattr(group, "roi") else None
    image = region.ContentSequence[0] if region is not None else group.source_images[0]
    numbers = tuple(
        Number(_code(item.name), item.value, _code(item.unit), *(frame(image) for image in item.referenced_images))
        for item in group.get_measurements()
    )
    corners = None if region is None else tuple(float(value) for value in region.value[[0, 2]].flatten())
    answers = [(_code(item.name), _code(item.value)) for item in group.get_qualitative_evaluations()]
    return Group(
        group.tracking_identifier, str(image.referenced_sop_instance_uid), numbers,
        tuple(answer for answer in answers if answer[0].value != CATEGORY),
        frame(image), corners, group.finding_type and _code(group.finding_type),
        next((_code(site.value) for site in group.finding_sites), None),
    )  # fmt: skip


def _code(concept: Any) -> Code:
    return Code(concept.value, concept.scheme_designator, concept.meaning)


def _fresh_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"
