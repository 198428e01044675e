"""Who may read what: every document names the groups that may read it.

A set of groups is stored as one canonical string, so that a filter on it is a comparison of
strings in the index, and the sets that an asker meets are chosen here, before any ranking. What
is not known to be allowed is not asked for: the filter fails closed.
"""

import json
from collections.abc import Iterable

PUBLIC = "public"


def reader_set(groups: Iterable[str]) -> str:
    """The canonical name of a set of groups; `ValueError` if it is empty or a name is blank."""
    if isinstance(groups, str):
        raise ValueError(f"groups is the text {groups!r}; pass a list of names")
    names = sorted({name.strip() for name in groups})
    if not names or not all(names):
        raise ValueError(f"groups are {names!r}; name at least one group, and none may be blank")
    return json.dumps(names, ensure_ascii=False, separators=(",", ":"))


def groups_of(readers: str) -> tuple[str, ...]:
    return tuple(json.loads(readers))


def readable(reader_sets: Iterable[str], groups: Iterable[str]) -> list[str]:
    """Those of `reader_sets` that share a group with the asker."""
    asker = set(groups_of(reader_set(groups)))
    return sorted(readers for readers in reader_sets if asker & set(groups_of(readers)))
