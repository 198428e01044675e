import json
import os
import random
import re
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.validators import Draft202012Validator, validator_for
from llguidance import LLParserLimits

from pharos.core import ModelError, SamplingParams
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.doubles import tiny_llama
from pharos.serve.engine.block_pool import BlockPool
from pharos.serve.engine.draft_model import DraftModelProposer
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.grammar import (
    GrammarCompiler,
    GrammarError,
    GrammarState,
    MaskFiller,
    new_mask,
)
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.request import Grammar, GrammarKind, Output, Request, Sequence
from pharos.serve.engine.runner import Runner
from pharos.serve.engine.scheduler import Scheduler, SchedulerConfig
from pharos.serve.engine.speculation import AdaptiveLength, NgramProposer, Proposer, Speculation

TEXTS = [
    '{"name": "Ada", "age": 36, "born": "1815-12-10", "tags": ["first", "engine"], "ok": true}',
    "the keeper of the light feeds seven gulls by the harbour of Alexandria",
    "Füße, 灯台, маяк, 🗼 and \\u00e9 \\n",
] * 3
SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "recursion": {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "leaf": {"type": "boolean"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                },
                "required": ["leaf"],
                "additionalProperties": False,
            }
        },
    },
    "numbers": {
        "type": "array",
        "prefixItems": [
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5},
            {"type": "integer", "multipleOf": 7, "minimum": -50, "maximum": 50},
        ],
        "minItems": 2,
        "items": False,
    },
    "strings": {
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$", "maxLength": 9},
            "day": {"type": "string", "format": "date"},
            "at": {"type": "string", "format": "date-time"},
            "address": {"type": "string", "format": "ipv4"},
        },
        "required": ["code", "day", "at", "address"],
        "additionalProperties": False,
    },
    "unions": {
        "anyOf": [
            {"const": None},
            {"type": "object", "properties": {"kind": {"const": "x"}}, "required": ["kind"]},
            {"allOf": [{"type": "string", "minLength": 2}, {"type": "string", "maxLength": 4}]},
        ]
    },
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(vocab_size=330, special_tokens=("<|im_end|>",)))


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(tokenizer)
    yield compiler
    compiler.close()


@pytest.fixture(scope="module")
def filler() -> Iterator[MaskFiller]:
    with MaskFiller() as filler:
        yield filler


def begin(compiler: GrammarCompiler, kind: GrammarKind, text: str = "") -> GrammarState:
    return compiler.compile(Grammar(kind=kind, text=text)).result().begin()


def legal_after(
    state: GrammarState, filler: MaskFiller, vocab_size: int, drafts: tuple[int, ...] = ()
) -> list[set[int]]:
    """The tokens that each row's mask leaves."""
    mask_RW = new_mask(1 + len(drafts), vocab_size)
    filler.begin([(0, state, drafts)], mask_RW).result()
    bits = np.unpackbits(mask_RW.view(np.uint8), axis=1, bitorder="little")[:, :vocab_size]
    return [set(np.flatnonzero(row).tolist()) for row in bits]


def random_output(
    state: GrammarState, filler: MaskFiller, tokenizer: Tokenizer, *, seed: int, most: int = 400
) -> str | None:
    """A text of random legal tokens, that ends where it may; None if it did not for `most`. Tokens
    that close something become likelier with time."""
    draws = random.Random(seed)
    ids: list[int] = []
    while not state.is_over:
        (legal,) = legal_after(state, filler, tokenizer.vocab_size)
        assert legal, "the output is not over, and nothing can follow"
        if len(ids) == most or state.error:
            return None
        closing = [id_ for id_ in legal if re.match(r'[\w.]*["}\]]', tokenizer.text_of(id_))]
        if ends := [id_ for id_ in tokenizer.eos_ids if id_ in legal]:
            token = draws.choice(ends)
        elif closing and draws.random() < len(ids) / 100:
            token = draws.choice(closing)
        else:
            token = draws.choice(sorted(legal))
        state.accept([token])
        ids.append(token)
    return tokenizer.decode(ids)


def violation(schema: dict[str, Any], value: object) -> str | None:
    validator = validator_for(schema, default=Draft202012Validator)
    errors = validator(schema, format_checker=validator.FORMAT_CHECKER).iter_errors(value)
    return next((error.message for error in errors), None)


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("seed", range(5))
def test_random_legal_tokens_make_json_that_its_schema_accepts(
    name: str, seed: int, compiler: GrammarCompiler, filler: MaskFiller, tokenizer: Tokenizer
) -> None:
    state = begin(compiler, "json_schema", json.dumps(SCHEMAS[name]))
    text = random_output(state, filler, tokenizer, seed=seed)
    assert text is not None
    assert violation(SCHEMAS[name], json.loads(text)) is None


DATA = Path(os.environ.get("PHAROS_DATA", "data")) / "jsonschemabench" / "schemas.tar.gz"


@pytest.mark.long
@pytest.mark.skipif(not DATA.is_file(), reason="JSONSchemaBench is not below $PHAROS_DATA")
def test_finished_outputs_of_a_thousand_real_schemas_are_valid(
    compiler: GrammarCompiler, filler: MaskFiller, tokenizer: Tokenizer
) -> None:
    outcomes: Counter[str] = Counter()
    for name, schema in sampled_schemas(1000):
        try:
            state = begin(compiler, "json_schema", schema)
        except GrammarError:
            outcomes["refused"] += 1
            continue
        text = random_output(state, filler, tokenizer, seed=0)
        if text is None:
            outcomes["unfinished"] += 1
            continue
        assert violation(json.loads(schema), json.loads(text)) is None, (name, text)
        outcomes["valid"] += 1
    assert outcomes["valid"] > 750, outcomes
    assert outcomes["refused"] < 200, outcomes


def sampled_schemas(count: int) -> Iterator[tuple[str, str]]:
    with tarfile.open(DATA) as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".json"))
        for name in random.Random(0).sample(names, count):
            file = archive.extractfile(name)
            assert file is not None
            yield name, file.read().decode()


def test_json_is_compact(
    compiler: GrammarCompiler, filler: MaskFiller, tokenizer: Tokenizer
) -> None:
    state = begin(compiler, "json_object")
    state.accept(tokenizer.encode('{"a":'))
    (legal,) = legal_after(state, filler, tokenizer.vocab_size)
    assert not [id_ for id_ in legal if tokenizer.text_of(id_).isspace()]
    assert state.count_legal(tokenizer.encode(" 1")) == 0


def test_a_schema_can_ask_for_spaces(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    schema = {"const": {"a": 1}, "x-guidance": {"key_separator": ": "}}
    state = begin(compiler, "json_schema", json.dumps(schema))
    state.accept(tokenizer.encode('{"a": 1}'))
    assert state.is_over


@pytest.mark.parametrize(
    ("kind", "text", "accepted", "refused"),
    [
        ("json_object", "", '{"a":[1,null]}', "[1]"),
        ("regex", "[ab]{2,3}c", "abac", "ac"),
        ("choice", '["yes", "no", "yes, but"]', "yes, but", "maybe"),
        ("gbnf", 'root ::= "(" root? ")"', "((()))", "(("),
        ("lark", 'start: "n" NUMBER\nNUMBER: /[0-9]+/', "n42", "n"),
        ("json_schema", "true", "[]", "}"),
    ],
)
def test_every_kind_of_grammar_accepts_its_language(
    kind: GrammarKind,
    text: str,
    accepted: str,
    refused: str,
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
) -> None:
    state = begin(compiler, kind, text)
    eos = tokenizer.eos_ids[0]
    assert state.count_legal([*tokenizer.encode(refused), eos]) <= len(tokenizer.encode(refused))
    state.accept([*tokenizer.encode(accepted), eos])
    assert state.is_over


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("json_schema", '{"properties": {"a": {"not": {}}}}', "not"),
        ("json_schema", '{"if": {}, "then": {}}', '"if", "then"'),
        ("json_schema", '{"oneOf": [{"type": "integer"}, {"type": "number"}]}', "oneOf"),
        ("json_schema", '{"format": "iri"}', "iri"),
        ("json_schema", '{"format": "date", "allOf": 3}', "allOf"),
        ("json_schema", '{"$ref": "http://example.com/schema"}', "http://example.com/schema"),
        ("json_schema", '{"properties": {"a": {"divisibleBy": 3}}}', "multipleOf"),
        ("json_schema", '{"items": [{"extends": {}}]}', "allOf"),
        ("json_schema", '{"not": {}, "x-guidance": {"lenient": true}}', "not"),
        ("json_schema", '{"minimum": 3, "maximum": 2, "type": "number"}', "minimum (3)"),
        ("json_schema", "false", "false"),
        ("json_schema", "{", "Expecting property name"),
        ("json_schema", "[" * 100_000, "nested too deeply"),
        ("regex", "(?=a)b", "look-ahead"),
        ("regex", "(" * 10_000 + "a" + ")" * 10_000, "nest"),
        ("choice", "[]", "one or more strings"),
        ("gbnf", "root ::= missing", "missing"),
        ("lark", "start: missing", "missing"),
        ("json_schema", '{"$ref": "#"}', "satisf"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_its_name(
    kind: GrammarKind, text: str, words: str, compiler: GrammarCompiler
) -> None:
    with pytest.raises(GrammarError, match=re.escape(words)):
        begin(compiler, kind, text)


def test_properties_may_be_called_as_refused_keywords(compiler: GrammarCompiler) -> None:
    schema = {"properties": {"extends": {"type": "string"}, "format": {"enum": ["date"]}}}
    begin(compiler, "json_schema", json.dumps(schema))


@pytest.mark.parametrize(
    ("format_", "valid", "invalid"),
    [
        ("date", ["2024-02-29", "2000-02-29", "2023-12-31"], ["2023-02-29", "1900-02-29"]),
        ("date", ["0001-01-01", "9999-09-30"], ["0000-01-01", "2020-04-31", "2020-13-01"]),
        ("time", ["23:59:59Z", "00:00:00.25+13:45"], ["23:59:60Z", "24:00:00Z", "12:00:00"]),
        ("date-time", ["2024-02-29T00:00:00Z"], ["2023-02-29T00:00:00Z", "2024-02-29"]),
    ],
)
def test_dates_are_those_of_the_calendar(
    format_: str,
    valid: list[str],
    invalid: list[str],
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
) -> None:
    for pattern in ({}, {"pattern": "^[0-9]"}):
        state = begin(compiler, "json_schema", json.dumps({"format": format_, **pattern}))
        for text in valid + invalid:
            ids = tokenizer.encode(json.dumps(text))
            assert (state.count_legal(ids) == len(ids)) is (text in valid), text


def test_an_output_ends_only_where_the_grammar_accepts_it(
    compiler: GrammarCompiler, filler: MaskFiller, tokenizer: Tokenizer
) -> None:
    eos = tokenizer.eos_ids[0]
    state = begin(compiler, "regex", "ab*")
    assert eos not in legal_after(state, filler, tokenizer.vocab_size)[0]
    with pytest.raises(GrammarError, match=str(eos)):
        state.accept([eos])
    state.accept(tokenizer.encode("a"))
    assert state.is_accepting
    assert not state.is_over
    assert eos in legal_after(state, filler, tokenizer.vocab_size)[0]
    state.accept([eos])
    assert state.is_over
    assert state.count_legal(tokenizer.encode("b")) == 0


def test_special_tokens_are_no_text(
    compiler: GrammarCompiler, filler: MaskFiller, tokenizer: Tokenizer
) -> None:
    state = begin(compiler, "regex", r".*")
    special = tokenizer.token_id("<|im_end|>")
    assert special is not None
    (legal,) = legal_after(state, filler, tokenizer.vocab_size)
    assert special not in legal
    assert state.count_legal([special]) == 0


def test_a_token_that_ends_outputs_is_no_text_though_no_file_calls_it_special(
    tokenizer: Tokenizer, filler: MaskFiller
) -> None:
    (letter,) = tokenizer.encode("q")
    ending = Tokenizer(tokenizer.backend, tokenizer.special_tokens, (letter, *tokenizer.eos_ids))
    compiler = GrammarCompiler(ending)
    state = begin(compiler, "regex", "[pq]{2}")
    (legal,) = legal_after(state, filler, tokenizer.vocab_size)
    assert letter not in legal
    state.accept(tokenizer.encode("pp"))
    (legal,) = legal_after(state, filler, tokenizer.vocab_size)
    assert legal == {letter, *tokenizer.eos_ids}
    compiler.close()


def test_rows_of_the_head_that_are_no_tokens_are_never_legal(
    tokenizer: Tokenizer, filler: MaskFiller
) -> None:
    vocab_size = tokenizer.vocab_size + 100
    compiler = GrammarCompiler(tokenizer, vocab_size=vocab_size)
    state = begin(compiler, "regex", "(.|\n)*")
    (legal,) = legal_after(state, filler, vocab_size)
    assert max(legal) < tokenizer.vocab_size
    compiler.close()


@given(data=st.data())
def test_masks_behind_drafts_are_those_of_a_state_that_accepted_them(
    data: st.DataObject, compiler: GrammarCompiler, filler: MaskFiller, tokenizer: Tokenizer
) -> None:
    kind, grammar = data.draw(st.sampled_from([("json_object", ""), ("regex", "(a|the){0,4} ?b")]))
    state = begin(compiler, kind, grammar)
    walked = begin(compiler, kind, grammar)
    path: list[int] = []
    masks = []
    for _ in range(data.draw(st.integers(1, 8))):
        (legal,) = legal_after(walked, filler, tokenizer.vocab_size)
        masks.append(legal)
        if not legal or walked.is_over:
            break
        path.append(data.draw(st.sampled_from(sorted(legal))))
        walked.accept(path[-1:])
    num_accepted = data.draw(st.integers(0, len(path)))
    state.accept(path[:num_accepted])
    drafts = tuple(path[num_accepted:])
    assert state.count_legal(drafts) == len(drafts)
    if not state.is_over:
        rows = legal_after(state, filler, tokenizer.vocab_size, drafts)
        for row, mask in zip(rows, masks[num_accepted:], strict=False):
            assert row == mask
    walked.roll_back(len(path) - num_accepted)
    assert walked.count_legal(drafts) == len(drafts)
    assert walked.is_over == state.is_over
    assert walked.is_accepting == state.is_accepting


def test_drafts_are_legal_up_to_the_first_that_is_not(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    state = begin(compiler, "regex", "ab*")
    (a,), (b,), eos = tokenizer.encode("a"), tokenizer.encode("b"), tokenizer.eos_ids[0]
    assert state.count_legal([a, b, a, b]) == 2
    assert state.count_legal([a, eos, b]) == 2
    assert state.count_legal([eos]) == 0
    assert state.count_legal([]) == 0
    state.accept([a])
    assert state.count_legal([eos]) == 1


def test_rows_of_other_outputs_are_not_masked(
    compiler: GrammarCompiler, filler: MaskFiller, tokenizer: Tokenizer
) -> None:
    (a,) = tokenizer.encode("a")
    mask_RW = np.zeros_like(new_mask(5, tokenizer.vocab_size))
    states = [begin(compiler, "regex", "ab"), begin(compiler, "regex", "a")]
    filler.begin([(1, states[0], (a,)), (4, states[1], ())], mask_RW).result()
    assert (mask_RW[[0, 3]] == -1).all()
    assert (mask_RW[[1, 2, 4]] != -1).any(axis=1).all()


def test_a_grammar_is_compiled_once_and_its_outputs_do_not_meet(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = Grammar(kind="regex", text="x+y")
    assert compiler.compile(grammar) is compiler.compile(grammar)
    one, other = (compiler.compile(grammar).result().begin() for _ in range(2))
    one.accept(tokenizer.encode("xy"))
    assert one.is_over
    assert not other.is_over
    other.accept(tokenizer.encode("x"))


def test_the_grammars_used_longest_ago_are_forgotten(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, max_compiled=2)
    first, second, third = (Grammar(kind="regex", text=text) for text in "abc")
    kept = compiler.compile(first)
    compiler.compile(second)
    assert compiler.compile(first) is kept
    compiler.compile(third)
    assert compiler.compile(first) is kept
    compiler.close()


def test_a_tokenizer_without_an_end_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match="eos"):
        GrammarCompiler(Tokenizer(tokenizer.backend))


def test_a_tokenizer_of_words_is_refused() -> None:
    words = train_tokenizer(TEXTS, TokenizerConfig(kind="wordpiece", vocab_size=200))
    with pytest.raises(ModelError, match="bytes"):
        GrammarCompiler(Tokenizer(words.backend, words.special_tokens, (2,)))


# With the engine


def runner_of(tokenizer: Tokenizer) -> Runner:
    model = tiny_llama(vocab_size=tokenizer.vocab_size)
    kv = PagedKV(model.body.attention_shapes(), num_blocks=400, block_size=4)
    return Runner(model, kv)


def written(
    tokenizer: Tokenizer, compiler: GrammarCompiler, proposer: Proposer | None
) -> tuple[dict[str, Output], Engine]:
    """What a model of random weights writes under each schema, warm and greedy."""
    runner = runner_of(tokenizer)
    always = AdaptiveLength(most=4, cost=0.01, max_batch=100)
    engine = Engine(
        Scheduler(SchedulerConfig(max_num_seqs=8), BlockPool(400, 4)),
        runner,
        tokenizer=tokenizer,
        compiler=compiler,
        speculation=None if proposer is None else Speculation(proposer, always),
    )
    for name, schema in SCHEMAS.items():
        for temperature in (0.0, 1.0):
            params = SamplingParams(max_tokens=90, temperature=temperature)
            grammar = Grammar(kind="json_schema", text=json.dumps(schema))
            engine.add(
                Request(
                    id=f"{name} {temperature}",
                    prompt=tokenizer.encode("the keeper"),
                    params=params,
                    seed=3,
                    eos_ids=frozenset(tokenizer.eos_ids),
                    grammar=grammar,
                )
            )
    outputs: dict[str, Output] = {}
    while engine.has_work:
        for news in engine.step():
            assert isinstance(news, Output)
            before = outputs.get(news.request_id, Output(request_id=news.request_id))
            outputs[news.request_id] = replace(news, text=before.text + news.text, tokens=())
    return outputs, engine


def test_what_the_engine_writes_obeys_its_schema(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    outputs, _ = written(tokenizer, compiler, None)
    finished = {key: out for key, out in outputs.items() if out.finish_reason == "stop"}
    assert len(finished) >= len(outputs) / 2
    for key, output in finished.items():
        assert violation(SCHEMAS[key.partition(" ")[0]], json.loads(output.text)) is None


def test_drafts_change_nothing_under_a_grammar(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    plain, _ = written(tokenizer, compiler, None)
    drafted, engine = written(tokenizer, compiler, NgramProposer(shortest=1))
    assert {key: out.text for key, out in drafted.items()} == {
        key: out.text for key, out in plain.items()
    }
    assert 0 < engine.stats.num_accepted_tokens < engine.stats.num_draft_tokens


class Ends:
    """Guesses that texts end, and that they then go on."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._drafts = [*tokenizer.encode("b"), *tokenizer.eos_ids, *tokenizer.encode("b")]

    def propose(self, sequences: Seq[Sequence], room: Seq[int]) -> list[list[int]]:
        return [self._drafts[:count] for count in room]

    def forget(self, sequence: Sequence) -> None:
        pass


def test_a_grammar_ends_a_text_that_ignores_ends_with_the_draft_that_does(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    engine = Engine(
        Scheduler(SchedulerConfig(), BlockPool(400, 4)),
        runner_of(tokenizer),
        tokenizer=tokenizer,
        compiler=compiler,
        speculation=Speculation(Ends(tokenizer), AdaptiveLength(most=4, cost=0.01, max_batch=100)),
    )
    for seed in range(30):
        params = SamplingParams(max_tokens=12, temperature=1.0, ignore_eos=True)
        engine.add(
            Request(
                id=str(seed),
                prompt=tokenizer.encode("the"),
                params=params,
                seed=seed,
                eos_ids=frozenset(tokenizer.eos_ids),
                grammar=Grammar(kind="regex", text="ab*"),
            )
        )
    reasons: Counter[str | None] = Counter()
    while engine.has_work:
        for news in engine.step():
            assert isinstance(news, Output)
            assert set(news.text) <= {"a", "b"}
            reasons[news.finish_reason] += 1
    assert reasons["stop"] > 5 and not reasons["error"]
    assert engine.stats.num_accepted_tokens > 0


def test_an_output_whose_grammar_cannot_be_followed_any_more_has_not_stopped(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = GrammarCompiler(tokenizer)
    monkeypatch.setattr(compiler, "_limits", LLParserLimits(max_items_in_row=3))
    engine = Engine(
        Scheduler(SchedulerConfig(), BlockPool(400, 4)),
        runner_of(tokenizer),
        tokenizer=tokenizer,
        compiler=compiler,
        speculation=Speculation(NgramProposer(), AdaptiveLength()),
    )
    nested = Grammar(kind="lark", text='start: (a|b)*\na: "a" start? "c"\nb: "b" a? "d"')
    engine.add(Request(id="0", prompt=tokenizer.encode("the"), grammar=nested))
    engine.add(Request(id="1", prompt=tokenizer.encode("the"), params=SamplingParams(max_tokens=9)))
    ended: dict[str, Output] = {}
    while engine.has_work:
        for news in engine.step():
            assert isinstance(news, Output)
            ended[news.request_id] = news
    assert ended["0"].finish_reason == "error"
    assert "items" in str(ended["0"].error)
    assert (ended["1"].finish_reason, ended["1"].error) == ("length", None)
    engine.check()
    engine.close()


def test_a_model_foresees_itself_under_a_grammar(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    drafts = DraftModelProposer(runner_of(tokenizer), vocab_size=tokenizer.vocab_size)
    _, engine = written(tokenizer, compiler, drafts)
    assert engine.stats.num_accepted_tokens > 0.95 * engine.stats.num_draft_tokens > 50


def test_an_engine_that_is_closed_leaves_no_threads(tokenizer: Tokenizer) -> None:
    before = threading.enumerate()
    drafts = DraftModelProposer(runner_of(tokenizer), vocab_size=tokenizer.vocab_size)
    _, engine = written(tokenizer, GrammarCompiler(tokenizer), drafts)
    engine.close()
    assert set(threading.enumerate()) <= set(before)
