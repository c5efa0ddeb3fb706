"""Command-line flags as tables, so that a script knows which were typed, and takes the same ones as keywords.

A typed flag beats the hyp file, which beats the default: that needs to tell "typed" from "left at its default".
"""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from utils.log import InputError


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        names: without dashes; the first is the option's name.
        default: value if not typed. ``False`` makes a switch; a flag whose default is None and whose kind is bool
            becomes a pair ``--x / --no-x``.
        kind: of its values.
        nargs: as in argparse; "?" takes ``const`` if typed bare.
        refused: why this program does not do what the flag asks; typing it is an error.
    """

    names: str
    default: Any
    help: str
    kind: Callable[[str], Any] = str
    nargs: str | int | None = None
    const: Any = None
    choices: Sequence[Any] | None = None
    refused: str | None = None

    @property
    def name(self) -> str:
        """Its name as an attribute."""
        return self.names.split()[0].replace("-", "_")


class _Parser(argparse.ArgumentParser):
    """Ends a usage error in one line, without the list of all flags."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def parse(
    flags: Sequence[Flag],
    description: str,
    argv: Sequence[str] | None = None,
    positional: tuple[str, str] | None = None,
) -> argparse.Namespace:
    """Options from a command line; ``.typed`` is the set of names that stand on it.

    Args:
        positional: name and help of words without a flag, of which there may be any number.

    A refused flag ends the program as any usage error does: one line, and exit code 2.
    """
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in flags:
        _add(parser, flag)
    if positional:
        parser.add_argument(positional[0], nargs="*", help=positional[1])
    given = vars(parser.parse_args(argv))
    refused = [flag for flag in flags if flag.refused and flag.name in given]
    if refused:
        parser.error(_refusal(refused[0]))
    return _options(flags, given)


def from_keywords(flags: Sequence[Flag], keywords: dict[str, Any]) -> argparse.Namespace:
    """Options as :func:`parse` gives them, from keywords (``run(imgsz=320)``) under any of a flag's names."""
    by_name = {name.replace("-", "_"): flag for flag in flags for name in flag.names.split()}
    given = {}
    for key, value in keywords.items():
        if key not in by_name:
            near = difflib.get_close_matches(key, by_name, n=1)
            raise InputError(f"unknown option {key!r}" + (f" (nearest: {near[0]!r})" if near else ""))
        if by_name[key].refused:
            raise InputError(_refusal(by_name[key]))
        given[by_name[key].name] = _converted(by_name[key], key, value)
    return _options(flags, given)


def check_range(options: argparse.Namespace, names: str, low: float, high: float = math.inf) -> None:
    """Raise an InputError where one of the options (``names``, separated by spaces) is given and outside its range."""
    for name in names.split():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            words = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
            raise InputError(f"--{name.replace('_', '-')}: expected {words}, got {value}")


def _converted(flag: Flag, key: str, value: Any) -> Any:
    """A keyword's value as the command line would give it: of the flag's kind, and one of its choices."""
    if value is None or isinstance(value, bool) or flag.default is False:
        return value
    try:
        if flag.nargs == "+":
            return [flag.kind(str(item)) for item in (value if isinstance(value, (list, tuple)) else [value])]
        value = flag.kind(str(value))
    except ValueError:
        raise InputError(f"option {key!r}: expected {flag.kind.__name__}, got {value!r}") from None
    if flag.choices and value not in flag.choices:
        raise InputError(f"option {key!r}: expected one of {', '.join(map(str, flag.choices))}, got {value!r}")
    return value


def _refusal(flag: Flag) -> str:
    return f"--{flag.names.split()[0]} is not supported: {flag.refused}"


def _options(flags: Iterable[Flag], given: dict[str, Any]) -> argparse.Namespace:
    defaults = {flag.name: flag.default for flag in flags if not flag.refused}
    return argparse.Namespace(**{**defaults, **given}, typed=frozenset(given))


def _add(parser: argparse.ArgumentParser, flag: Flag) -> None:
    names = [f"--{name}" for name in flag.names.split()]
    text = flag.help or (f"not supported: {flag.refused}" if flag.refused else "")
    text = text.replace("%", "%%") + (f" (default: {flag.default})" if flag.default not in (None, False, "") else "")
    keywords: dict[str, Any] = {"dest": flag.name, "default": argparse.SUPPRESS, "help": text}
    if flag.default is False:
        parser.add_argument(*names, action="store_true", **keywords)
    elif flag.kind is bool:
        parser.add_argument(*names, action=argparse.BooleanOptionalAction, **keywords)
    else:
        if flag.nargs == "?":
            keywords["const"] = flag.const
        parser.add_argument(*names, type=flag.kind, nargs=flag.nargs, choices=flag.choices, **keywords)


IMGSZ = "imgsz img img-size"
CLIP_WINDOW = Flag(
    "clip-window", None, "frames before and after, of the same clip, that what is found in a frame is averaged with; "
    "0 none; the training's (hyp: clip_window) unless given", int,
)  # fmt: skip
BOOTSTRAP = Flag("bootstrap", 2000, "draws behind the 95% intervals of the figures; 0 for none", int)

DOWNLOAD = Flag("download", False, "fetch --weights yolov5s.pt and the like from YOLOv5's release, if not on disk")

THREADS = Flag("threads", 0, "of the processor that a network trains with; 0: as many as there are cores", int)

COMMON = (
    Flag("device", "", "cpu, a GPU's number, or mps; empty takes the first GPU, else the CPU"),
    Flag("exist-ok", False, "write into an existing project/name instead of a new folder"),
    Flag("amp", None, "bf16 mixed precision; without either flag, where the processor has bf16", kind=bool),
    Flag("traceback", False, "show where an error arose"),
)
