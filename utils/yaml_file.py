"""The text of a yaml file -> plain values, within limits; nothing in it is run. A leaf: imports nothing of ours."""

from __future__ import annotations

from typing import Any

import yaml

DEEPEST = 50  # lists and mappings inside of each other
MOST_VALUES = 500_000  # aliases counted as what they stand for
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is libyaml's: several times as fast


def parse_yaml(text: str) -> Any:
    """What a yaml text holds.

    Raises:
        ValueError: not yaml, nested too deeply, or so many values that reading them would take all memory (a few
            aliases of aliases stand for billions). The message is one line.
    """
    try:
        _check_size(text)
        return yaml.load(text, Loader=_LOADER)
    # the last three: a list as a key, a date that is none
    except (yaml.YAMLError, RecursionError, OverflowError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _check_size(text: str) -> None:
    """Follow the text's events, which takes no memory, before anything is made of them."""
    sizes: dict[str, int] = {}  # of what an anchor stands for
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the count at which it began
    count = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias {event.anchor!r:.80} stands for nothing, or for what it is a part of")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            sizes.pop(str(event.anchor), None)  # not whole before its end, so that no cycle can be asked for
            open_nodes.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, begin = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - begin
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if len(open_nodes) > DEEPEST:
            raise ValueError(f"expected at most {DEEPEST} lists and mappings inside of each other, got more")
        if count > MOST_VALUES:
            raise ValueError(
                f"expected at most {MOST_VALUES:,} values, got more (aliases count as what they stand for)"
            )
