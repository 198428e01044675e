"""A hostile template gets an error, soon, and nothing runs."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.core import Message, ModelError
from pharos.data.chat_template import BUILT_IN, ChatTemplate
from pharos.data.template_sandbox import MAX_SOURCE
from pharos.data.tokenizer import Tokenizer

HELLO = [Message(role="user", content="Hello")]

DOUBLE = "{% set n = namespace(a=(), b=()) %}{% for i in range(60) %}{% set n.a = (n.a, n.a) %}" + (
    "{% set n.b = (n.b, n.b) %}{% endfor %}"
)
"""Two values that are small in memory, and 2**60 long for whoever walks them."""
TWICE = "{% for i in range(60) %}{% set n.s = n.s OPERATOR n.s %}{% endfor %}"
LONG = "{% set s = 'a' * 100000 %}"

ENDLESS = {
    "loops": "{% for a in range(99999) %}" * 4 + "{% endfor %}" * 4,
    "loops that do nothing": "{% for a in range(99999) if false %}{% endfor %}" * 90,
    "a loop over a text": "{% for c in 'a' * 9999999 %}{% endfor %}",
    "a loop of constants": "{% for i in range(99999) %}{% set x = [" + "1," * 20000 + "] %}"
    "{% endfor %}",
    "text without end": "{% for i in range(99999) %}" + "x" * 60000 + "{% endfor %}",
    "text in a variable": "{% set x %}{% for i in range(99999) %}" + "x" * 60000 + "{% endfor %}"
    "{% endset %}",
    "iterators in a loop": "{% for i in range(9999) %}{{ range(99999)|map('int')|list }}"
    "{% endfor %}",
    "a macro's tree": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(60) }}",
    "a caller's tree": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call m() %}" * 30 + "x" + "{% endcall %}" * 30,
    "a marked loop": "{% generation %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}{% endgeneration %}",
}  # fmt: skip
HUGE = {
    "text": "{{ 'a' * 10**10 }}",
    "text from the left": "{{ 10**10 * 'a' }}",
    "text in a loop": "{% for i in range(99999) %}{% set x = 'a' * 30000000 %}{% endfor %}",
    "list": "{{ [1] * 10**10 }}",
    "integer": "{{ 10 ** (10**10) }}",
    "integer by squares": "{% set n = namespace(x=9) %}{% for i in range(99) %}"
    "{% set n.x = n.x * n.x %}{% endfor %}",
    "doubled by ~": "{% set n = namespace(s='a') %}" + TWICE.replace("OPERATOR", "~"),
    "doubled by +": "{% set n = namespace(s='a') %}" + TWICE.replace("OPERATOR", "+"),
    "doubled list": "{% set n = namespace(s=[1]) %}" + TWICE.replace("OPERATOR", "+"),
    "slices": LONG + "{% for i in range(99999) %}{% set x = s[1:] %}{% endfor %}",
    "splits": LONG + "{% for i in range(999) %}{% set x = s.split('a') %}{% endfor %}",
    "center": "{{ 'a'|center(10**10) }}",
    "center of a constant": "{{ 'a'|center(10000000000) }}",
    "center by map": "{{ ['a']|map('center', 10**10)|list }}",
    "center of a block": "{% filter center(10**10) %}x{% endfilter %}",
    "center of a variable": "{% set x | center(10**10) %}x{% endset %}",
    "the method center": "{{ 'a'.center(10**10) }}",
    "ljust": "{{ 'a'.ljust(10**10)|length }}",
    "zfill": "{{ '1'.zfill(10**10)|length }}",
    "expandtabs": "{{ '\t'.expandtabs(10**10)|length }}",
    "indent": "{{ ('\n' * 1000)|indent(10**9) }}",
    "indent by a text": LONG + "{{ ('\n' * 100000)|indent(s) }}",
    "tojson": "{{ [[1]]|tojson(indent=10**10) }}",
    "tojson by separators": LONG + "{{ ([1] * 99999)|tojson(separators=(s, s))|length }}",
    "tojson moved in": "{% set n = namespace(s=[1] * 99999) %}{% for i in range(200) %}"
    "{% set n.s = [n.s] %}{% endfor %}{{ n.s|tojson(indent=16)|length }}",
    "replace": LONG + "{{ s|replace('a', s) }}",
    "the method replace": LONG + "{{ s.replace('', s) }}",
    "join": LONG + "{{ range(99999)|join(s) }}",
    "the method join": LONG + "{{ s.join(s) }}",
    "strip": LONG + "{{ (s * 30).strip('b' + s) }}",
    "batch": "{{ [1]|batch(10**10, 'x')|list }}",
    "slice": "{{ [1]|slice(10**10)|list }}",
    "round": "{{ 1.5|round(10**9, 'ceil') }}",
    "percent": "{{ '%9999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (999999999, 1) }}",
    "percent with a key": "{{ '%(a)9999999999s' % {'a': 1} }}",
    "percent with a strange key": "{{ '%(a(%b)c).9999999999f' % {'a(%b)c': 1} }}",
    "percent filter": "{{ '%9999999999d'|format(1) }}",
    "percent many": LONG + "{{ ('%(a)s' * 100000) % {'a': s} }}",
    "format": "{{ '{:>9999999999}'.format(1) }}",
    "format nested": "{{ '{:>{}}'.format(1, 9999999999) }}",
    "format of an index": "{{ '{0[}]:9999999999}'.format({'}': 1}) }}",
    "format nested in an index": "{{ '{0[a][}]:{1}}'.format({'a': {'}': 1}}, 9999999999) }}",
    "format many": LONG + "{{ ('{0}' * 100000).format(s) }}",
    "format map": "{{ '{a:>9999999999}'.format_map({'a': 1}) }}",
    "printed": DOUBLE + "{{ n.a }}",
    "printed namespace": "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
    "printed view": DOUBLE + "{{ {1: n.a}.items() }}",
    "joined by ~": DOUBLE + "{{ 'a' ~ n.a }}",
    "compared": DOUBLE + "{{ n.a == n.b }}",
    "compared by a test": DOUBLE + "{{ n.a is eq(n.b) }}",
    "looked for": DOUBLE + "{{ n.a in [n.b] }}",
    "changed": DOUBLE + "{% for x in [n.a, n.b] %}{{ loop.changed(x) }}{% endfor %}",
    "index": DOUBLE + "{{ [n.a].index(n.b) }}",
    "hashed by a dict": DOUBLE + "{{ {n.a: 1}|length }}",
    "hashed by dict()": DOUBLE + "{{ dict([(n.a, 1)])|length }}",
    "hashed by []": DOUBLE + "{{ {}[n.a] }}",
    "hashed by get": DOUBLE + "{{ {}.get(n.a) }}",
    "unique": DOUBLE + "{{ [n.a]|unique|list|length }}",
    "sorted": DOUBLE + "{{ [n.a, n.b]|sort|length }}",
    "grouped": DOUBLE + "{{ [[n.a], [n.b]]|groupby(0)|length }}",
    "as JSON": DOUBLE + "{{ n.a|tojson }}",
    "as a string": DOUBLE + "{{ n.a|string|length }}",
    "as safe": DOUBLE + "{{ n.a|safe|length }}",
    "as a filter": DOUBLE + "{{ [1]|map(n.a)|list }}",
    "as a filter's name": DOUBLE + "{{ n.a is filter }}",
    "as an attribute": DOUBLE + "{{ 'a'|attr(n.a) }}",
    "by an iterator": DOUBLE + "{{ n.a in [n.b]|select }}",
    "by a test's iterator": DOUBLE + "{{ n.a is in([n.b]|select) }}",
    "joined from an iterator": LONG + "{{ ''.join([s * 10] * 90000 | select) }}",
    "compared to an iterator": LONG + "{{ s * 9 in [s * 9 ~ 'b'] * 90000 | select }}",
    "a path": "{{ ['x'] * 90000 | map(attribute='0' + '.0' * 10000) | list | length }}",
    "a path to sort by": "{{ (['x'] * 90000) | sort(attribute='0' + '.0' * 10000) | length }}",
    "many arguments": "{% macro m() %}{% endmacro %}{% set x = ['a'] * 90000 %}"
    "{% for i in range(99999) %}{{ m(*x) }}{{ 'a'|default(*x) }}{% endfor %}",
    "many names": "{% macro m() %}{{ kwargs|length }}{% endmacro %}{% set n = namespace(d=[]) %}"
    "{% for i in range(999) %}{% set n.d = n.d + [('a' ~ i, 1)] %}{% endfor %}"
    "{% set d = dict(n.d) %}{% for i in range(99999) %}{{ m(**d) }}{% endfor %}",
    "as a message": DOUBLE + "{{ raise_exception(n.a) }}",
}
STOPPED = ENDLESS | HUGE
FAILING = {
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a deep list": "{% set n = namespace(s=[]) %}{% for i in range(50000) %}{% set n.s = [n.s] %}"
    "{% endfor %}{{ n.s }}",
    "a long range": "{{ range(10**9)|list }}",
    "lists added up": "{{ ([[1]] * 1000)|sum(start=[]) }}",
    "a class": "{{ ''.__class__.__mro__ }}",
    "a class by filter": "{{ (''|attr('__class__')).x }}",
    "a class by format": "{{ '{0.__class__.x}'.format(1) }}",
    "globals": "{{ raise_exception.__globals__.x }}",
    "a change": "{{ messages.append(1) }}",
    "a changed message": "{{ messages[0].update(a=1) }}",
    "bytes": "{{ (5).to_bytes(10**9, 'big') }}",
    "a translation": "{{ 'a'.translate({97: 'x' * 100}) }}",
    "a text that is called": "{{ 'a'() }}",
    "what is not there": "{{ lipsum(n=10**9) }}{{ cycler(1) }}",
    "what cannot be called": DOUBLE + "{{ n.a() }}",
    "a long date": "{{ strftime_now('%c' * 10000) }}",
    "a hidden name": "{% set n = namespace(__class__=1) %}",
}
INVALID = {
    "include": "{% include 'x' %}",
    "import": "{% import 'x' as y %}",
    "from": "{% from 'x' import y %}",
    "extends": "{% extends 'x' %}",
    "block": "{% block a %}{% endblock %}",
    "recursive": "{% for x in [[1]] recursive %}{{ loop(x) }}{% endfor %}",
    "autoescape": "{% autoescape 'a'|center(10000000000) %}{% endautoescape %}",
    "an unknown filter": "{{ 'x'|urlize }}",
    "deep brackets": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "a long sum": "{{ " + "1+" * 30000 + "1 }}",
    "a long chain": "{{ 1" + "|int" * 15000 + " }}",
    "nested conditions": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "nested loops": "{% for i in a %}" * 50 + "{% endfor %}" * 50,
    "digits": "{{ " + "9" * 60000 + " }}",
    "hex": "{{ 0x" + "f" * 60000 + " }}",
    "an open comment": "{#" * 30000,
}
LIMITED = """
import resource, sys
from pharos.core import Message, ModelError
from pharos.data import template_sandbox
from pharos.data.chat_template import ChatTemplate
template_sandbox.MAX_WORK //= 50
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1])))
for source in sys.stdin.read().split("\\0"):
    try:
        ChatTemplate(source, {}).render([Message(role="user", content="Hello")])
    except ModelError as error:
        print(str(error)[:100].replace("\\n", " "))
    else:
        print("rendered", source[:80])
"""


def outcomes(templates: list[str]) -> list[str]:
    """What becomes of each, in a process that may take 2 s for each, and 2 GiB; it has a fiftieth
    of the budget, to save the tests' time."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(2 * len(templates))],
        input="\0".join(templates),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-300:]
    return done.stdout.splitlines()


def test_no_template_takes_long_or_much_memory() -> None:
    found = dict(zip(STOPPED, outcomes([*STOPPED.values()]), strict=True))
    assert {name: said for name, said in found.items() if "was stopped" not in said} == {}


@pytest.mark.parametrize("name", FAILING)
def test_a_template_that_reaches_for_more_fails(name: str) -> None:
    with pytest.raises(ModelError, match="failed on these messages"):
        ChatTemplate(FAILING[name], {}).render(HELLO)


def test_an_error_is_short_whatever_the_template_says() -> None:
    for source in (LONG + "{{ raise_exception(s) }}", LONG + "{{ {}[s].x }}"):
        with pytest.raises(ModelError) as error:
            ChatTemplate(source, {}).render(HELLO)
        assert len(str(error.value)) < 1500


@pytest.mark.parametrize("name", INVALID)
def test_what_cannot_be_compiled_is_an_error(name: str) -> None:
    with pytest.raises(ModelError, match=r"is not valid: line \d|cannot be compiled"):
        ChatTemplate(INVALID[name], {})


def test_a_template_that_is_too_long_is_not_looked_at() -> None:
    with pytest.raises(ModelError, match="up to 64,000 is accepted"):
        ChatTemplate("x" * (MAX_SOURCE + 1), {})


def test_every_rendering_has_a_budget_of_its_own() -> None:
    template = ChatTemplate("{{ ('a' * (16 * 10**6))|length }}", {})
    assert {template.render(HELLO) for _ in range(9)} == {"16000000"}


def test_what_only_the_rewritten_template_may_name_gives_no_budget_back() -> None:
    source = "{{ [-10**9]|map('!charged')|list|length }}" + ENDLESS["loops"]
    with pytest.raises(ModelError, match="was stopped"):
        ChatTemplate(source, {}).render(HELLO)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_conversation_of_a_million_tokens_is_no_attack(name: str, tokenizer: Tokenizer) -> None:
    turns = [
        Message(role="user" if i % 2 == 0 else "assistant", content="word " * 500)
        for i in range(2000)
    ]
    assert len(ChatTemplate.built_in(name, tokenizer).render(turns)) > 4_500_000


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer

    return train_tokenizer(["a b c"], TokenizerConfig(vocab_size=300))


SNIPPETS = st.sampled_from(
    [
        "{% for a in messages %}", "{% endfor %}", "{% if a %}", "{% else %}", "{% endif %}",
        "{{ a }}", "{{ 'x' * 5 }}", "{% set a = ", "messages", "|list", "|join", " %}",
        "loop", ".index", "[1:]", "{% macro m() %}", "{% endmacro %}", "m()", "(", ")", "'", "~",
        "{{ ", " }}", "{% generation %}", "{% endgeneration %}", "namespace(a=1)", "-",
        "|tojson", " is ", "none",
    ]
)  # fmt: skip


@given(st.lists(SNIPPETS | st.text(max_size=5), max_size=12))
def test_a_template_of_anything_renders_or_is_an_error_of_ours(parts: list[str]) -> None:
    try:
        text = ChatTemplate("".join(parts), {}).render(HELLO)
    except ModelError:
        return
    assert isinstance(text, str)
