"""What the filters, tests and methods of a chat template cost, charged before they run.

What is not listed is not there. Left out are those with which no conversation is written: what is
random, makes HTML, or may take longer than its cost says.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from jinja2 import TemplateRuntimeError
from jinja2.tests import TESTS
from jinja2.utils import Namespace

CHARACTERS_PER_UNIT = 16
ELEMENTS_PER_UNIT = 2
BITS_PER_UNIT = 64
NAMESPACE_UNITS = 16
CALL_UNITS = 8
MAX_DOTS = 9
"""Of a path into an element, `message.content.0.text`."""

Arguments = Sequence[Any]


class TooMuchWorkError(TemplateRuntimeError):
    """The budget is spent."""


class Meter:
    """What is left of a rendering's budget."""

    def __init__(self, work: int) -> None:
        self._left = work

    def charge(self, units: int) -> None:
        self._left -= max(units, 0)
        if self._left < 0:
            raise TooMuchWorkError("it loops without end, or makes something huge")

    def weigh(self, *values: object) -> int:
        """Charges for all that is in the values, to the leaves, and returns how much that is. A
        part that occurs twice counts twice, as it does for whoever prints or compares it."""
        before, stack = self._left, list(values)
        while stack:
            value = stack.pop()
            self.charge(surface(value))
            stack.extend(parts(value))
        return before - self._left


def surface(value: object) -> int:
    """What it costs to copy a value without what it refers to."""
    if isinstance(value, str):
        return 1 + len(value) // CHARACTERS_PER_UNIT
    if isinstance(value, int):
        return 1 + value.bit_length() // BITS_PER_UNIT
    if isinstance(value, (list, tuple, dict, range)):
        return 1 + len(value) // ELEMENTS_PER_UNIT
    return NAMESPACE_UNITS if isinstance(value, Namespace) else 1


def parts(value: object) -> Iterable[object]:
    """What a value refers to."""
    if isinstance(value, (str, int)):
        return ()
    if isinstance(value, _SEQUENCES):
        return cast(Iterable[object], value)
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return parts(value._Namespace__attrs) if isinstance(value, Namespace) else ()


_SEQUENCES: tuple[type[object], ...] = (
    list,
    tuple,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)


def settled(value: Any) -> Any:
    """What an iterator will yield, as a list: only then can it be weighed."""
    return list(value) if isinstance(value, Iterator) else value


Cost = Callable[[Meter, Arguments], None]


def nothing(meter: Meter, arguments: Arguments) -> None:
    """One step, whatever the arguments are."""
    meter.charge(1)


def looked_into(meter: Meter, arguments: Arguments) -> None:
    """Each element is looked at when it is asked for, and that is charged then. The other arguments
    are names of filters and tests, or a path `a.b.c` that is walked for each element."""
    meter.weigh(*arguments[1:])
    if any(isinstance(path, str) and path.count(".") > MAX_DOTS for path in arguments[1:]):
        raise TooMuchWorkError("it looks for something very deep")


def copied(meter: Meter, arguments: Arguments) -> None:
    """The first argument is copied element by element; a text, character by character."""
    value = arguments[0]
    meter.charge(len(value) if isinstance(value, str) else surface(value))


def walked(meter: Meter, arguments: Arguments) -> None:
    """All arguments are read to their leaves."""
    meter.weigh(*arguments)


def multiplied(meter: Meter, arguments: Arguments) -> None:
    """The result may be the first argument times the length, or the number, of another:
    `'a'|center(80)`, `text|replace('', other)`."""
    subject, *others = arguments
    factors = [
        len(o) if isinstance(o, str) else abs(o) for o in others if isinstance(o, (str, int))
    ]
    meter.charge((meter.weigh(subject) + meter.weigh(*others)) * max(factors, default=1))


def joined(meter: Meter, arguments: Arguments) -> None:
    """`separator.join(texts)`: the texts, and the separator as often as there are texts."""
    multiplied(meter, arguments[::-1])


def dumped(meter: Meter, arguments: Arguments) -> None:
    """`value|tojson(indent=2)`: each element may stand on a line of its own, moved in as often as
    it is nested, and each separator after each."""
    value, *settings = arguments
    weight = meter.weigh(value) + meter.weigh(*settings)
    widths = [len(o) if isinstance(o, str) else abs(o) for o in _scalars(settings)]
    widest = max(widths, default=1)
    meter.charge(weight * max(widest, 1) * (_nesting(value) if widest > 1 else 1))


def _scalars(values: Iterable[object]) -> Iterator[str | int]:
    """The texts and the numbers in values that have been weighed."""
    for value in values:
        if isinstance(value, (str, int)):
            yield value
        else:
            yield from _scalars(parts(value))


def _nesting(value: object) -> int:
    """How many levels a value has that has been weighed."""
    level, depth = [value], 0
    while level:
        level, depth = [part for one in level for part in parts(one)], depth + 1
    return depth


def ordered(meter: Meter, arguments: Arguments) -> None:
    """Each element is compared with some others, their number being the logarithm of all."""
    looked_into(meter, arguments)
    weight = meter.weigh(arguments[0])
    meter.charge(weight * weight.bit_length())


def looked_up(meter: Meter, arguments: Arguments) -> None:
    """`mapping.get(key, default)`: the key is hashed."""
    meter.weigh(*arguments[1:2])


def summed(meter: Meter, arguments: Arguments) -> None:
    """Numbers: to add up lists would copy the first ones again and again."""
    if any(isinstance(start, (list, tuple)) for start in arguments[1:]):
        raise TemplateRuntimeError("the filter sum adds up numbers only")
    looked_into(meter, arguments)
    meter.weigh(arguments[0])


def formatted(meter: Meter, arguments: Arguments) -> None:
    """`'%s and %s' % values`, or the same as a filter: each mark may print all of the values."""
    text, *values = arguments
    if isinstance(text, str):
        if _is_wide_percent(text):
            raise TooMuchWorkError(f"the format {text[:60]!r} asks for a width of its own")
        meter.charge(text.count("%") * meter.weigh(*values))
    meter.weigh(text)


def brace_formatted(meter: Meter, arguments: Arguments) -> None:
    """`'{} and {}'.format(values)`."""
    text, *values = arguments
    if _is_wide_brace(text.replace("{{", "")):
        raise TooMuchWorkError(f"the format {text[:60]!r} asks for a width of its own")
    meter.charge(text.count("{") * meter.weigh(*values))
    meter.weigh(text)


def _is_wide_percent(text: str) -> bool:
    """Of a mark with a key, `%(key)9999s`, the end of the key is looked for: keys may hold
    anything."""
    return bool(_WIDE_PERCENT.search(text) or ("%(" in text and _WIDE_AFTER_KEY.search(text)))


def _is_wide_brace(text: str) -> bool:
    """A brace within an index, `{0[}]:9999}`, ends no field, so it is refused: it hides a width."""
    hides = (field.rfind("[") > field.rfind("]") for field in _FIELD.findall(text))
    return bool(_WIDE_BRACE.search(text)) or any(hides)


_WIDE_PERCENT = re.compile(r"%[^%a-zA-Z]*(\*|\d{4})")
_WIDE_AFTER_KEY = re.compile(r"\)[#0 +\-]*(\*|\d{4}|\d*\.(\*|\d{4}))")
_WIDE_BRACE = re.compile(r"\{[^}]*(\{|\d{4})")
_FIELD = re.compile(r"\{([^{}]*)(?=[{}])")


def _table(groups: Mapping[Cost, str]) -> dict[str, Cost]:
    return {name: cost for cost, names in groups.items() for name in names.split()}


FILTER_COSTS = _table(
    {
        nothing: "count d default first items last length",
        looked_into: "attr map reject rejectattr select selectattr",
        copied: "list reverse",
        walked: "abs capitalize e escape float int lower safe string title upper urlencode "
        "wordcount",
        multiplied: "batch center indent join replace round slice tojson trim truncate",
        ordered: "dictsort groupby max min sort unique",
        summed: "sum",
        formatted: "format",
    }
)
LAZY_FILTERS = frozenset(
    ("d", "default", "first", "map", "reject", "rejectattr", "select", "selectattr")
)
"""Those that take an iterator as it is; the others are given a list of what it yields."""

TEST_COSTS: dict[str, Cost] = dict.fromkeys(TESTS, walked) | _table(
    {
        nothing: "boolean callable defined escaped false float integer iterable mapping none "
        "number sameas sequence string true undefined"
    }
)

METHOD_COSTS: dict[type, dict[str, Cost]] = {
    str: _table(
        {
            walked: "capitalize casefold count endswith find index isalnum isalpha isascii "
            "isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper "
            "lower partition removeprefix removesuffix rfind rindex rpartition rsplit split "
            "splitlines startswith swapcase title upper",
            multiplied: "center expandtabs ljust lstrip replace rjust rstrip strip zfill",
            joined: "join",
        }
    ),
    dict: _table({nothing: "items keys values", looked_up: "get", copied: "copy"}),
    list: _table({walked: "count index", copied: "copy"}),
    tuple: _table({walked: "count index"}),
}
