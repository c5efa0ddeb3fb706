"""What is wrong or doubtful in a dataset, found without training and written as counts, tables and pictures.

python -m utils.labels --data my_data.yaml
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils.config import DatasetConfig, find_file, from_here, from_root, load_dataset_config
from utils.contact_sheet import Picture, Section, contact_sheet
from utils.dataset import prepare
from utils.files import new_run_folder, write_json, write_whole
from utils.findings import Finding, Frame, Rule, find_all, first_few, grouped, joined_parts, read_frames
from utils.flags import COMMON, Flag, from_keywords, parse
from utils.label_agreement import agreements
from utils.log import run_script
from utils.outputs import csv_text

FLAGS = (
    Flag("data", "data/phantom.yaml", "dataset yaml"),
    Flag("project", "runs/audit", "folder of the runs", from_here),
    Flag("name", "exp", "folder of this run"),
    *(flag for flag in COMMON if flag.name in ("exist_ok", "traceback")),
)


def tally(frames: Sequence[Frame], config: DatasetConfig) -> dict[str, int]:
    """Frames, boxes a class, frames a view; frames without a view, where the dataset names views."""
    classes, views = Counter(name for f in frames for name in f.classes), Counter(f.view for f in frames)
    counts = {"frames": len(frames)} | {f"boxes {name}": classes[name] for name in config.names}
    counts |= {f"view {name}": views[name] for name in config.view_names}
    return counts | ({"no view": views[None]} if config.view_names else {})


def spread(frames: Sequence[Frame], key: Callable[[Frame], str | None]) -> dict[str, Any] | None:
    """How patients, or clips, are spread over the parts; None where no frame has one.

    ``share_of_frames``: of each part's frames, those whose patient (or clip) has frames in another part, too.
    """
    groups = grouped(frames, key).values()
    shared = [own for own in groups if len({frame.part for frame in own}) > 1]
    theirs, sizes = Counter(frame.part for own in shared for frame in own), Counter(frame.part for frame in frames)
    shares = {part: theirs[part] / size for part, size in sizes.items()}
    return {"count": len(groups), "in_several_parts": len(shared), "share_of_frames": shares} if groups else None


def figures(frames: Sequence[Frame], findings: Sequence[Finding], config: DatasetConfig) -> dict[str, Any]:
    """The content of audit.json: all counts, and how far labels agree."""
    by_rule, rules = grouped(findings, lambda finding: finding.rule), {}
    for rule in Rule:
        own = by_rule.get(rule, [])
        rules[rule.title] = {"findings": len(own), "frames": len({frame for found in own for frame in found.frames})}
    return {
        "data": str(config.file),
        "parts": {part: tally(own, config) for part, own in grouped(frames, lambda frame: frame.part).items()},
        "patients": spread(frames, lambda frame: frame.patient),
        "clips": spread(frames, lambda frame: frame.clip),
        "rules": rules,
        "agreement": [asdict(found) for found in agreements(frames)],
    }


def summary(content: Mapping[str, Any]) -> str:
    """Text of audit.json for a terminal."""
    rows = [{"part": part, **counts} for part, counts in content["parts"].items()]
    lines = ["  ".join(f"{name:>6}" for name in rows[0])]
    lines += ["  ".join(f"{cell:>{max(6, len(name))}}" for name, cell in row.items()) for row in rows]
    lines += ["", *(_spread_line(kind, content[kind]) for kind in ("patients", "clips")), ""]
    found = [(rule, content["rules"][rule.title]) for rule in Rule if content["rules"][rule.title]["findings"]]
    lines += ["findings  frames" if found else "nothing wrong or doubtful was found"]
    lines += [f"{row['findings']:>8}  {row['frames']:>6}  {rule.title}: {rule.advice}" for rule, row in found]
    lines += ["", *_agreement_lines(content["agreement"])] if content["agreement"] else []
    return "\n".join(lines)


def _agreement_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "labels, if copied from the nearest frame of the same clip: box F1 at IoU 0.5, share of views"
    yield "  part    from  frames  frames away      F1    view"
    for row in rows:
        shares = "".join(f"{'-' if row[name] is None else f'{row[name]:.3f}':>8}" for name in ("f1", "view"))
        yield f"{row['part']:>6}  {row['source']:>6}  {row['frames']:>6}  {row['gap']:>11.0f}{shares}"


def _spread_line(kind: str, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return f"{kind}: not checked, as no pattern of the yaml finds them in the file names"
    shares = ", ".join(f"{share:.0%} of {part}" for part, share in found["share_of_frames"].items())
    several = f"{kind}: {found['count']}, of them {found['in_several_parts']} in more than one part"
    return f"{several}, with {shares}" if found["in_several_parts"] else several


def finding_rows(findings: Sequence[Finding]) -> list[list[object]]:
    """Of findings.csv: a row a finding; where it is several frames to look at, a row for each."""
    rows: list[list[object]] = [["rule", "part", "file", "line", "what"]]
    for found in findings:
        if found.path is not None or not found.rule.pictured:
            rows.append([found.rule.title, found.part, found.path or "", found.line or "", found.text])
        else:
            rows += [[found.rule.title, frame.part, frame.path, "", found.reason(frame)] for frame in found.frames]
    return rows


def patient_rows(frames: Sequence[Frame], config: DatasetConfig) -> list[list[object]]:
    """Of patients.csv: a row a patient; the heading alone where none is known."""
    rows: list[list[object]] = [["patient", "parts", "clips", *tally((), config)]]
    for patient, own in sorted(grouped(frames, lambda frame: frame.patient).items()):
        rows.append([patient, joined_parts(own), len({frame.clip for frame in own}), *tally(own, config).values()])
    return rows


def sections(findings: Sequence[Finding]) -> list[Section]:
    """Of the contact sheet: for each rule its frames, each once."""
    by_rule = grouped(findings, lambda finding: finding.rule)
    return [Section(rule.title, rule.advice, _pictures(by_rule.get(rule, []))) for rule in Rule if rule.pictured]


def _pictures(findings: Iterable[Finding]) -> list[Picture]:
    reasons: dict[Frame, list[str]] = defaultdict(list)
    for finding in findings:
        for frame in finding.frames:
            if frame.shape is not None:
                reasons[frame].append(finding.reason(frame))
    return [
        Picture(frame.path, f"{frame.part}: {first_few(texts, '; ')}", frame.label.boxes, frame.view)
        for frame, texts in reasons.items()
    ]


def _write(path: Path, text: str) -> None:
    """Write a file whole; bytes of a file name that are no UTF-8 become question marks."""
    write_whole(path, lambda file: file.write(text.encode("utf-8", "replace")))


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Audit as the options say; returns the content of audit.json."""
    config = load_dataset_config(find_file(options.data, "data", flag="--data"))
    prepare(config)
    frames = read_frames(config)
    findings = find_all(frames, config)
    content = figures(frames, findings, config)
    folder = new_run_folder(from_root(options.project), options.name, options.exist_ok)
    write_json(folder / "audit.json", content)
    _write(folder / "findings.csv", csv_text(finding_rows(findings)))
    _write(folder / "patients.csv", csv_text(patient_rows(frames, config)))
    lead = f"Found in {config.file}; all findings are in findings.csv beside this page."
    _write(folder / "contact_sheet.html", contact_sheet("Frames to look at", lead, sections(findings), config.names))
    print(f"{config.file}\n\n{summary(content)}\n\nResults in {folder}")
    return content


def run(**keywords: Any) -> dict[str, Any]:
    """Audit from a notebook: ``run(data="my_data.yaml")``; returns audit.json's content."""
    return main(from_keywords(FLAGS, keywords))


def start() -> int:
    """Audit as the command line says; the exit code is 0 when the audit ran, whatever it found."""
    return run_script(main, parse(FLAGS, __doc__ or ""))
