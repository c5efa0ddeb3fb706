"""utils/report_codes.py: coded terms are what pydicom's tables of the standard have, or our own and never empty."""

from __future__ import annotations

import pytest

from utils import report_codes as codes
from utils.report_codes import Code


def test_terms_are_the_standards() -> None:
    collection = pytest.importorskip("pydicom.sr.codedict").codes
    terms = [value for value in vars(codes).values() if isinstance(value, Code)]
    terms += [*codes.VIEWS.values(), *(term for pair in codes.VALVES.values() for term in pair)]
    unknown = []
    for scheme in ("SCT", "DCM"):
        given = [getattr(getattr(collection, scheme), name) for name in getattr(collection, scheme).dir()]
        for term in (term for term in terms if term.scheme == scheme):
            if not any(code.value == term.value and _alike(code.meaning, term.meaning) for code in given):
                unknown.append(term.value)
    assert unknown in ([], ["91434003"])  # SNOMED CT's Pulmonic valve regurgitation (disorder), in no context group
    assert {term.scheme for term in terms} == {"SCT", "DCM", "UCUM", "UMLS", codes.SCHEME}


def _alike(one: str, other: str) -> bool:
    return one.lower().startswith(other.lower()) or other.lower().startswith(one.lower())


def test_views_are_of_dicoms_group() -> None:
    group = pytest.importorskip("pydicom.sr.codedict").codes.CID12226
    views = {getattr(group, name).value for name in group.dir()}
    assert {view.value for view in codes.VIEWS.values()} <= views


def test_classes_and_views_by_name() -> None:
    assert codes.finding("MR", 1) == codes.finding(" mr ", 7) == Code("48724000", "SCT", "Mitral regurgitation")
    assert codes.site("TR") == Code("46030003", "SCT", "Tricuspid valve") and codes.site("leak") is None
    assert codes.finding("leak", 2) == Code("leak", codes.SCHEME, "leak")
    assert codes.view("a4c").value == "399214001" and codes.view("subcostal").scheme == codes.SCHEME
    assert codes.uncertain(True) == (codes.NOT_CERTAIN, codes.YES) != codes.uncertain(False)


@pytest.mark.parametrize("name", ["", " ", "\\", "\n\t", "a" * 17, "a" * 300, "é\\b", "\udcfc", "逆流", " x"])
def test_any_name_has_a_code_that_dicom_can_hold(name: str) -> None:
    code = codes.private(name, "class 3")
    assert 0 < len(code.value) <= 16 and 0 < len(code.meaning) <= 64
    assert "\\" not in code.value + code.meaning and (code.value + code.meaning).isprintable()
    assert code == codes.private(name, "class 3")


def test_names_that_look_alike_have_codes_of_their_own() -> None:
    names = ["leak", "leak ", "le\\ak", "le ak", "", " ", "a" * 64, "a" * 65]
    assert len({codes.private(name, "class 3").value for name in names}) == len(names)
