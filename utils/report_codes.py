"""The codes of a DICOM structured report: valves, views and measurements in SNOMED CT, DICOM's own terms, or ours.

SNOMED CT as DICOM's context groups have it: views of CID 12226, regurgitation of CID 3700 and 12248.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Code(NamedTuple):
    """A coded term (DICOM PS3.3 8.8), in the order of highdicom's arguments."""

    value: str
    scheme: str
    meaning: str


SCHEME, SCHEME_NAME = "99ECHOJOINT", "Terms of echo-joint"  # private ones begin with 99 (DICOM PS3.16 8.2)
SHORT, LONG = 16, 64  # characters of a code's value and meaning

ECHOCARDIOGRAPHY = Code("40701008", "SCT", "Echocardiography")
DEVICE = Code("121007", "DCM", "Device")
FINDING = Code("404684003", "SCT", "Clinical finding")
IMAGE_VIEW = Code("111031", "DCM", "Image View")
CERTAIN_FINDING = Code("111012", "DCM", "Certainty of Finding")  # "that a device places upon a finding", in per cent
CERTAIN_FEATURE = Code("111011", "DCM", "Certainty of Feature")
FRAMES = Code("121140", "DCM", "Number of Frames")
WIDTH, HEIGHT = Code("103355008", "SCT", "Width"), Code("121207", "DCM", "Height")
MAXIMUM = Code("56851009", "SCT", "Maximum")
YES, NO = Code("373066001", "SCT", "Yes"), Code("373067005", "SCT", "No")
COMMENT, EVALUATIONS = Code("121106", "DCM", "Comment"), Code("C0034375", "UMLS", "Qualitative Evaluations")
ONSET = Code("ONSET", SCHEME, "Onset, from the first frame")
SHARE = Code("AGREEMENT", SCHEME, "Frames that agree with the view")
NOT_CERTAIN = Code("UNCERTAIN", SCHEME, "Uncertain result")
PERCENT, SECOND, CM = Code("%", "UCUM", "Percent"), Code("s", "UCUM", "second"), Code("cm", "UCUM", "cm")
FRAMES_UNIT = Code("{frames}", "UCUM", "frames")

VALVES = {  # finding and its site
    "AR": (Code("60234000", "SCT", "Aortic regurgitation"), Code("34202007", "SCT", "Aortic valve")),
    "MR": (Code("48724000", "SCT", "Mitral regurgitation"), Code("91134007", "SCT", "Mitral valve")),
    "PR": (Code("91434003", "SCT", "Pulmonic valve regurgitation"), Code("39057004", "SCT", "Pulmonary valve")),
    "TR": (Code("111287006", "SCT", "Tricuspid regurgitation"), Code("46030003", "SCT", "Tricuspid valve")),
}
VIEWS = {
    "PSAX": Code("399306005", "SCT", "Parasternal short axis"),
    "PLAX": Code("399139001", "SCT", "Parasternal long axis"),
    "A4C": Code("399214001", "SCT", "Apical four chamber"),
    "A2C": Code("399232001", "SCT", "Apical two chamber"),
}


def finding(name: str, number: int) -> Code:
    """The code of a class, by its name; a private one for a class that is no valve's regurgitation."""
    known = VALVES.get(name.strip().upper())
    return known[0] if known else private(name, f"class {number}")


def site(name: str) -> Code | None:
    """Where a class is found, if that is known."""
    known = VALVES.get(name.strip().upper())
    return known[1] if known else None


def view(name: str) -> Code:
    """The code of a view, by its name; a private one for a name that is not known."""
    return VIEWS.get(name.strip().upper()) or private(name, "view")


def uncertain(answer: bool) -> tuple[Code, Code]:
    """Whether a result is uncertain, as a question and its answer."""
    return NOT_CERTAIN, YES if answer else NO


def private(name: str, unnamed: str) -> Code:
    """A code of our own for any name; ``unnamed`` stands for one of nothing that can be printed."""
    text = "".join(letter if letter.isprintable() and letter != "\\" else " " for letter in name)
    text = " ".join(text.split()) or unnamed
    if len(text) <= SHORT and text == name:
        return Code(text, SCHEME, text)
    return Code(hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:SHORT], SCHEME, text[:LONG].strip())
