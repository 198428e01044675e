"""Sets of tag and macro names, written as readers of their manuals know them: in a row."""


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())
