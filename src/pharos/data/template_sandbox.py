"""Jinja for templates from strangers: they reach nothing, and they end.

A chat template is a program that somebody uploaded. Jinja's sandbox keeps it from Python's insides,
but not from `{% for a in x %}{% for b in x %}…`, `'a' * 10**10`, `'a'|center(10**10)`, macros that
call themselves twice, or a list that contains itself twice, forty levels deep, and is printed.

Here a rendering has a budget of work (`MAX_WORK`), and everything that may take more than a step is
charged before it runs. So no clock is needed, and a template that ends too late does so on every
machine alike. What is charged, and where:

- a loop, for each round: the size of its body; a macro, for each call: the same. What stands
  outside of both runs once, and is as large as the template;
- operators, methods, filters, tests, and what is printed: what they read and write, in characters
  and elements (`template_costs`).

To that end the syntax tree is rewritten after parsing (`_Metering`), and Jinja's optimiser, which
would run parts of the template while it compiles, is off.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn, cast

from jinja2 import TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace, _PassArg, pass_context
from jinja2.visitor import NodeTransformer

from pharos.data.template_costs import (
    CALL_UNITS,
    CHARACTERS_PER_UNIT,
    FILTER_COSTS,
    LAZY_FILTERS,
    METHOD_COSTS,
    TEST_COSTS,
    Cost,
    Meter,
    TooMuchWorkError,
    brace_formatted,
    formatted,
    settled,
    surface,
    walked,
)

MAX_SOURCE = 64_000
"""Characters of a template; the longest in use have about 20,000. Compiling is not metered, and may
take time that grows with the square of this."""
MAX_WORK = 3_000_000
"""Of one rendering: seconds. A conversation of a million tokens needs about half of it."""
MAX_BITS = 4096
"""Of a product; Python refuses to print integers that are much larger."""
NODES_PER_UNIT = 16

BEGIN, END = "\ufdd0", "\ufdd1"
"""Marks in a rendered text: code points that Unicode keeps for such uses, and no text has."""

_ITERATED, _WEIGHED, _COPIED, _CHARGED = "!iterated", "!weighed", "!copied", "!charged"
_MARKED = "!marked"
"""Filters that only the rewritten tree can name."""


class MeteredContext(Context):
    """The variables of one rendering, and its budget. With `has_marks`, what stands in
    `{% generation %}` is written between `BEGIN` and `END`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.meter = Meter(MAX_WORK)
        self.has_marks = False


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates, and performs what they ask for, each thing at its cost."""

    context_class = MeteredContext
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        filters: Mapping[str, Callable[..., Any]],
    ) -> None:
        """`functions` are what templates may call beside Jinja's own; `filters` take the place of
        Jinja's, at their cost."""
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_printed,
            extensions=[GenerationTag, loopcontrols],
            cache_size=0,
        )
        own = {"range": self.globals["range"], "dict": _dict, "namespace": _Namespace}
        self.globals = {**own, **functions}
        offered: Mapping[str, Any] = {**self.filters, **filters}
        tests: Mapping[str, Any] = self.tests
        self.filters = _INTERNAL_FILTERS | {
            name: _metered(offered[name], cost, is_lazy=name in LAZY_FILTERS)
            for name, cost in FILTER_COSTS.items()
        }
        self.tests = {
            name: _metered(tests[name], cost, is_lazy=True) for name, cost in TEST_COSTS.items()
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Metering().visit(tree)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _charge_operator(_meter(context), operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        """`text.format`, which `call` performs itself."""
        is_method = isinstance(value, (MethodType, BuiltinMethodType))
        if is_method and value.__name__ in ("format", "format_map"):
            return _Format(value.__self__) if isinstance(value.__self__, str) else None
        return None

    def call(
        __self,  # noqa: N805 - the names are Jinja's: a template may pass any other
        __context: Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        meter = _meter(__context)
        meter.charge(CALL_UNITS + len(args) + len(kwargs))
        if not isinstance(__obj, (Macro, Undefined)):
            args = tuple(map(settled, args))
            kwargs = {name: settled(value) for name, value in kwargs.items()}
            arguments = (getattr(__obj, "__self__", None), *args, *kwargs.values())
            if isinstance(__obj, _Format):
                brace_formatted(meter, (__obj.text, *arguments[1:]))
                return SandboxedFormatter(__self).vformat(__obj.text, args, kwargs)
            __self._call_cost(__obj)(meter, arguments)
        result = super().call(__context, __obj, *args, **kwargs)
        meter.charge(surface(result))
        return result

    def _call_cost(self, function: Any) -> Cost:
        """Only what is listed may be called."""
        if any(function is known for known in self.globals.values()):
            return walked
        if isinstance(function, (BuiltinMethodType, MethodType)):
            owner, name = function.__self__, function.__name__
            if isinstance(owner, LoopContext) and name in ("cycle", "changed"):
                return walked
            for kind, costs in METHOD_COSTS.items():
                if isinstance(owner, kind) and name in costs:
                    return costs[name]
        name = getattr(function, "__name__", type(function).__name__)
        raise SecurityError(f"{name} may not be called")


class _Format:
    """The method `format` of a text."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Namespace(Namespace):
    """What `{% set ns.x = … %}` assigns to; not to names that Python uses itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` is a name like any other
        self, *others = args
        values = dict(*others, **kwargs)
        Namespace.__init__(self)
        for name, value in values.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise SecurityError(f"a namespace may not have {name!r}: names begin with a letter")
        super().__setitem__(name, value)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`: marks what the assistant says, for training. The text
    is the same without it."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (
            nodes.Output([_filtered(_MARKED, nodes.Const(mark, lineno=line))], lineno=line)
            for mark in (BEGIN, END)
        )
        return nodes.Scope([begin, *body, end], lineno=line)


class _Metering(NodeTransformer):
    """Puts a filter that charges wherever the compiled code would work by itself."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        if node.recursive:
            _refuse(node)
        cost = _cost_of(node)
        self.generic_visit(node)
        node.iter = _filtered(_ITERATED, cast(nodes.Expr, node.iter), cost)
        return node

    def _visit_callable(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:
        charge = _filtered(_CHARGED, nodes.Const(_cost_of(node), lineno=node.lineno))
        self.generic_visit(node)
        node.body.insert(0, nodes.Output([charge], lineno=node.lineno))
        return node

    visit_Macro = visit_CallBlock = _visit_callable

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _weighed(node.expr)
        for operand in node.ops:
            operand.expr = _weighed(operand.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_weighed(part) for part in node.nodes]
        return node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        for pair in node.items:
            pair.key = _weighed(pair.key)  # it is hashed
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _filtered(_COPIED, node)
        node.arg = _weighed(node.arg)  # it is hashed
        return node

    def _visit_refused(self, node: nodes.Node) -> NoReturn:
        _refuse(node)

    visit_Extends = visit_Block = visit_Include = visit_Import = _visit_refused
    visit_FromImport = visit_ScopedEvalContextModifier = _visit_refused


def _refuse(node: nodes.Node) -> NoReturn:
    what = "a recursive loop" if isinstance(node, nodes.For) else f"{{% {type(node).__name__} %}}"
    raise TemplateSyntaxError(f"{what} is nothing for a chat template", node.lineno)


def _filtered(name: str, node: nodes.Expr, *arguments: int) -> nodes.Filter:
    constants = [nodes.Const(argument, lineno=node.lineno) for argument in arguments]
    return nodes.Filter(node, name, constants, [], None, None, lineno=node.lineno)


def _weighed(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _filtered(_WEIGHED, node)


def _cost_of(node: nodes.Node) -> int:
    """What running all of a node once takes: its parts, and the text that they write."""
    parts = [node, *node.find_all(nodes.Node)]
    written = sum(len(part.data) for part in parts if isinstance(part, nodes.TemplateData))
    return 1 + len(parts) // NODES_PER_UNIT + written // CHARACTERS_PER_UNIT


def _meter(context: Context) -> Meter:
    assert isinstance(context, MeteredContext)
    return context.meter


def _charge_operator(meter: Meter, operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str):
        formatted(meter, (left, right))
    elif operator == "**":
        _limit_bits(_bits(left) * (abs(right) if isinstance(right, int) else 1))
    elif operator == "*" and isinstance(left, int) and isinstance(right, int):
        _limit_bits(_bits(left) + _bits(right))
    elif operator == "*" and isinstance(left, int):
        meter.charge(_length(right) * left // CHARACTERS_PER_UNIT)
    elif operator == "*" and isinstance(right, int):
        meter.charge(_length(left) * right // CHARACTERS_PER_UNIT)
    meter.charge(surface(left) + surface(right))


def _length(value: object) -> int:
    """Of a text, or of a list in characters' worth: a reference takes eight."""
    if isinstance(value, str):
        return len(value)
    return 8 * len(value) if isinstance(value, (list, tuple)) else 1


def _bits(value: object) -> int:
    return value.bit_length() if isinstance(value, int) else 1


def _limit_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise TooMuchWorkError(f"it computes an integer of {bits:,} bits")


def _metered(function: Callable[..., Any], cost: Cost, *, is_lazy: bool) -> Callable[..., Any]:
    """A filter or a test that is charged for before it runs, and its result after."""
    wants = _PassArg.from_obj(function)

    @pass_context
    def run(context: MeteredContext, value: Any, *args: Any, **kwargs: Any) -> Any:
        context.meter.charge(len(args) + len(kwargs))
        value = value if is_lazy else settled(value)
        args = tuple(map(settled, args))
        kwargs = {name: settled(argument) for name, argument in kwargs.items()}
        cost(context.meter, (value, *args, *kwargs.values()))
        before = {
            None: (),
            _PassArg.context: (context,),
            _PassArg.eval_context: (context.eval_ctx,),
            _PassArg.environment: (context.environment,),
        }[wants]
        result = function(*before, value, *args, **kwargs)
        context.meter.charge(surface(result))
        return _iterated(context, result, 1) if isinstance(result, Iterator) else result

    return run


@pass_context
def _iterated(context: MeteredContext, values: Iterable[Any], cost: int) -> Iterator[Any]:
    for value in values:
        context.meter.charge(cost)
        yield value


@pass_context
def _weighed_value(context: MeteredContext, value: Any) -> Any:
    value = settled(value)
    context.meter.weigh(value)
    return value


@pass_context
def _copied_value(context: MeteredContext, value: Any) -> Any:
    context.meter.charge(surface(value))
    return value


@pass_context
def _charged(context: MeteredContext, cost: int) -> str:
    context.meter.charge(cost)
    return ""


@pass_context
def _marked(context: MeteredContext, mark: str) -> str:
    return mark if context.has_marks else ""


_INTERNAL_FILTERS: dict[str, Callable[..., Any]] = {
    _ITERATED: _iterated,
    _WEIGHED: _weighed_value,
    _COPIED: _copied_value,
    _CHARGED: _charged,
    _MARKED: _marked,
}
_printed = _weighed_value
"""What is printed is first walked, as `str` walks it."""
