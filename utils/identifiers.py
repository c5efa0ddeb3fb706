"""What may leave a hospital: names that only the holder of a key can look up, and DICOM files without identifiers.

python -m utils.identifiers --key runs/detect/identifiers.key NAME...  (which name each value gets)

A name is an HMAC of its value, so that whoever has the key finds the patient, clip or file behind a name by trying
those that there are, and nobody else learns anything from it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import hmac
import os
import re
import secrets
import sys
import tempfile
import time
import uuid
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from utils import extras
from utils.flags import COMMON, Flag, parse
from utils.log import LOGGER, InputError, run_script

KEY_BYTES = 32
KEY = re.compile(rb"[0-9a-fA-F]{64}\s*")
PATIENCE = 2.0  # seconds in which another process writes the key that it has begun
KINDS = ("patient", "study", "clip", "file")
LONGEST = 60  # characters of a value that stands for itself: 240 bytes at most, where file systems take 255
UNSAFE = re.compile(r"[^\w.-]+")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)?(\..*)?", re.IGNORECASE)  # of Windows; and hidden files

# What an anonymised dataset keeps. All else is left out: DICOM PS3.15 table E.1-1 names more than 600 attributes that
# may identify a patient, and a maker's own come on top, but few are needed to read an ultrasound clip.
GROUPS = (0x0008, 0x0010, 0x0018, 0x0020, 0x0028)
EMPTIED = ("PatientBirthDate", "PatientSex")  # type 2: they have to be there, but may be empty
REPLACED = ("PatientName", "PatientID", "ReferringPhysicianName", "AccessionNumber", "StudyID")  # type 2, too
TEXTS = (  # no version of a scanner's software: some list the parts of one scanner, with dates
    "Manufacturer", "ManufacturerModelName", "CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion",
    "CodeMeaning",
)  # fmt: skip
SEQUENCES = (
    "SequenceOfUltrasoundRegions", "ViewCodeSequence", "ViewModifierCodeSequence", "AnatomicRegionSequence",
    "AnatomicRegionModifierSequence", "TransducerGeometryCodeSequence", "TransducerBeamSteeringCodeSequence",
    "TransducerApplicationCodeSequence",
)  # fmt: skip
SCHEMES = ("SCT", "SRT", "SNM3", "DCM", "LN", "UCUM", "FMA", "UMLS", "NCIt")  # others may be a hospital's own
PATIENT, STRANGERS = 0x0010, ("ModifyingDeviceID",)  # a group, and what looks like a code and is none
NUMBERS = ("AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV")
CODE = re.compile(r"[A-Z0-9 _]{1,16}")  # a CS as the standard has it, which no free text is
MOMENTS = ("Study", "Series", "Acquisition", "Content")  # a device's dates are known, and would tell the shift
DATE = re.compile(r"[0-9]{8}")
EARLIEST = 1900  # dates are shifted by up to two years


@dataclass(frozen=True)
class Identifiers:
    """Gives names to what the outside may not know by its own.

    Attributes:
        key: the secret; not in the ``repr``, which might end in a log.
        keep: everything keeps its own name instead, and there is no key.
    """

    key: bytes = field(repr=False)
    keep: bool = False

    @classmethod
    def open(cls, path: Path, keep: bool) -> Identifiers:
        """With the key in a file, which is made where there is none; with ``keep`` there is no key, and no file.

        Raises:
            InputError: the file is no key, or can neither be read nor made.
        """
        if keep:
            return cls(b"", True)
        try:
            if not os.path.lexists(path):
                _make_key(path)
            return cls(read_key(path))
        except OSError as error:
            raise InputError(f"{path}: expected a key, or a place for one: {error.strerror or error}") from error

    def name(self, kind: str, value: str) -> str:
        """A name that a file may have: ``clip-81b2c3d4e5f6``; with ``keep`` the value's own, made safe.

        Args:
            kind: what the value names, one of :data:`KINDS`, say: equal values of two kinds get different names.
        """
        if not self.keep:
            return f"{kind}-{self._digest(kind, value).hex()[:12]}"
        safe = UNSAFE.sub("_", value)[:LONGEST]
        if safe == value and not RESERVED.fullmatch(safe):
            return safe
        return f"{kind}-{safe.strip('._-') or 'x'}-{hashlib.sha256(_bytes(value)).hexdigest()[:6]}"

    def uid(self, uid: str) -> str:
        """A UID that stands for another one, below 2.25 (DICOM PS3.5 B.2); with ``keep`` itself."""
        if self.keep:
            return uid
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', uid.strip(' ' + chr(0)))[:16], version=4).int}"

    def anonymised(self, dataset: Any) -> Any:
        """A copy of a pydicom dataset from which nobody learns whose it is; with ``keep`` a plain copy.

        UIDs are those of :meth:`uid`, the patient's is that of :meth:`name`; dicognito replaces other numbers and
        names, and shifts dates, by a patient's own offset; there are no times. Texts, persons, comments, private
        elements and whatever else is not known to be harmless are left out, and so are pixels, overlays and the
        content of a structured report: nobody can tell what is burnt into a picture. The copy is in Explicit VR.

        Raises:
            InputError: a package is missing, or the dataset is broken beyond that.
        """
        if self.keep:
            return copy.deepcopy(dataset)
        purpose = "DICOM files without identifiers"
        pydicom, cleaner = extras.load("pydicom", purpose), extras.load("dicognito.anonymizer", purpose)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's repeat the values
                clean = _Cleaner(self, pydicom).file(dataset)
                seed = str(dataset.get("PatientID") or dataset.get("StudyInstanceUID") or "")
                anonymizer = cleaner.Anonymizer(seed=self._digest("dicognito", seed).hex())
                anonymizer.add_element_handler(_is_replaced)
                anonymizer.anonymize(clean)
        except Exception as error:  # of elements that are not what their VR says
            where = getattr(dataset, "filename", None) or "a dataset"
            raise InputError(
                f"{where}: expected elements that can be anonymised, got {type(error).__name__}"
            ) from error
        clean.PatientIdentityRemoved, clean.LongitudinalTemporalInformationModified = "YES", "MODIFIED"
        return clean

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.new(self.key, _bytes(kind) + b"\0" + _bytes(value), "sha256").digest()


def read_key(path: Path) -> bytes:
    """The key in a file.

    Raises:
        InputError: something else is in it; what is not shown.
        OSError: absent, or it cannot be read.
    """
    until = time.monotonic() + PATIENCE
    while True:
        with path.open("rb") as file:
            text = file.read(1000)
        if KEY.fullmatch(text):
            break
        if len(text) >= 2 * KEY_BYTES or time.monotonic() > until:
            got = f"{len(text)} bytes" if len(text) < 1000 else "a longer file"
            raise InputError(f"{path}: expected a key of {2 * KEY_BYTES} hex digits, got {got} that are none")
        time.sleep(0.05)  # another process makes it, where there are no links
    if os.name == "posix" and path.stat().st_mode & 0o077:
        LOGGER.warning("%s: others may read this key and find out who is behind a name: chmod 600 it", path)
    return bytes.fromhex(text.decode("ascii").strip())


def _make_key(path: Path) -> None:
    """Write a fresh key, unless another process has done so meanwhile: of two, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"{secrets.token_hex(KEY_BYTES)}\n".encode()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # for the owner alone
    draft = Path(name)
    try:
        _write_and_close(handle, text)
        try:
            os.link(draft, path)  # fails where there is a file, as renaming would not
        except FileExistsError:
            return
        except OSError:  # a file system without links
            with contextlib.suppress(FileExistsError):
                _write_and_close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), text)
    finally:
        draft.unlink(missing_ok=True)
    LOGGER.info("%s: the key to all names that leave; keep it to yourself, and keep it", path)


def _write_and_close(handle: int, text: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _is_replaced(dataset: Any, element: Any) -> bool:
    """For dicognito: whether an element is as it should be already."""
    return element.VR in ("UI", "SQ") or element.keyword == "PatientID" or not element.value


class _Cleaner:
    """Copies the elements that may stay; those that dicognito replaces are ready for it."""

    def __init__(self, identifiers: Identifiers, pydicom: Any) -> None:
        self._identifiers, self._pydicom = identifiers, pydicom

    def file(self, dataset: Any) -> Any:
        """The copy of a file's dataset."""
        clean = self._copied(dataset)
        clean.SpecificCharacterSet = "ISO_IR 192"
        clean.file_meta = meta = self._pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = self._pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = clean.get("SOPClassUID", "")
        meta.MediaStorageSOPInstanceUID = clean.get("SOPInstanceUID", "")
        return clean

    def _copied(self, dataset: Any) -> Any:
        clean = self._pydicom.Dataset()
        for tag in sorted(dataset.keys()):
            try:
                element = dataset[tag]
                known = tag.group in GROUPS or element.keyword in SEQUENCES
                value = self._kept(element) if known and not tag.is_private else None
                if value is not None:
                    clean.add_new(tag, element.VR, value)
            except Exception:  # the value is not what the element's VR says: better without it
                continue
        return clean

    def _kept(self, element: Any) -> Any:
        """What an element may say in the copy; None where it has to be left out."""
        keyword, kind = element.keyword, element.VR
        if kind == "SQ":
            items = [self._copied(item) for item in element.value if _is_public(item)]
            return items if items and keyword in SEQUENCES else None
        values = [] if element.is_empty else list(element.value) if element.VM > 1 else [element.value]
        if keyword in EMPTIED:
            return ""
        if keyword in REPLACED:
            text = "^".join(str(value) for value in values).strip()
            return self._identifiers.name("patient", text) if text and keyword == "PatientID" else text
        if element.tag.group == PATIENT or keyword in STRANGERS:
            return None
        if kind in ("DA", "TM", "DT"):
            known = re.sub("(DateTime|Date|Time)$", "", keyword) in MOMENTS
            return ("" if kind == "TM" else _date(values)) if known else None
        if kind == "UI":
            texts = [str(value) for value in values]
            return texts if keyword == "SOPClassUID" else [self._uid(text) for text in texts]
        if kind == "CS":
            codes = [str(value).strip() for value in values]
            return codes if all(CODE.fullmatch(code) for code in codes) else None
        return values if kind in NUMBERS or keyword in TEXTS else None

    def _uid(self, uid: str) -> str:
        """The standard's own UIDs mean the same everywhere."""
        return uid if not uid or uid in self._pydicom.uid.UID_dictionary else self._identifiers.uid(uid)


def _is_public(item: Any) -> bool:
    """Whether a sequence's item is no code, or one of a scheme that is no hospital's own."""
    return "CodeMeaning" not in item or str(item.get("CodingSchemeDesignator", "")) in SCHEMES


def _date(values: list[Any]) -> str:
    """The date of a DA or DT, which dicognito shifts; empty where there is none."""
    text = str(values[0]).strip()[:8] if len(values) == 1 else ""
    try:
        return text if DATE.fullmatch(text) and datetime.strptime(text, "%Y%m%d").year >= EARLIEST else ""
    except ValueError:
        return ""


FLAGS = (
    Flag("key", "", "file of the key"),
    *(flag for flag in COMMON if flag.name == "traceback"),
)
POSITIONAL = ("values", "patients, studies, UIDs or files, as they were called before")


def main(options: argparse.Namespace) -> None:
    """Print which names the values get: a line each, with the value, its name as each kind of thing, and its UID."""
    if not options.key:
        raise InputError("--key: expected the file of a key, got none")
    if not options.values:
        raise InputError("expected values to look up, got none")
    identifiers = Identifiers(read_key(Path(options.key)))
    for value in options.values:
        print("\t".join([value, *(identifiers.name(kind, value) for kind in KINDS), identifiers.uid(value)]))


if __name__ == "__main__":
    parsed = parse(FLAGS, __doc__ or "", positional=POSITIONAL)
    sys.exit(run_script(main, parsed))
