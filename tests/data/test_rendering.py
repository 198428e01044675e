"""What is learned of a conversation, and that training sees what answering sees."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.core import ModelError, TrainingError
from pharos.data.chat_template import BUILT_IN, ChatTemplate, token_names
from pharos.data.conversations import Continuation, Conversation, Text, Turn
from pharos.data.examples import IGNORED
from pharos.data.rendering import Rendered, Renderer
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer

SPECIAL = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>")
KINDS = ("unigram", "bpe")
ENDS = {"alpaca": None, "chatml": "<|im_end|>", "llama-3": "<|eot_id|>", "mistral": None}
"""What ends a turn; None is `eos`."""


@cache
def tokenizer(kind: Any = "unigram") -> Tokenizer:
    texts = ["the keeper lights the lamp in the tower: Yes, No"] * 9
    return train_tokenizer(
        texts, TokenizerConfig(kind=kind, vocab_size=310, special_tokens=SPECIAL)
    )


def template(source: str, kind: str = "unigram") -> ChatTemplate:
    return ChatTemplate(source, token_names(tokenizer(kind)), name="T")


def renderer(name: str, kind: str = "unigram", *, max_tokens: int = 1000) -> Renderer:
    built_in = ChatTemplate.built_in(name, tokenizer(kind))
    return Renderer(tokenizer(kind), built_in, max_tokens=max_tokens)


def chat(*said: str, learned: str = "", system: str | None = None) -> Conversation:
    """User and assistant by turns; `learned` has a `-` for each answer that is not."""
    marks = [mark for each in learned.ljust(len(said), "+") for mark in ("+", each)]
    turns = [
        Turn(role=("user", "assistant")[i % 2], content=text, is_learned=marks[i] == "+")
        for i, text in enumerate(said)
    ]
    before = [] if system is None else [Turn(role="system", content=system)]
    return Conversation(turns=(*before, *turns))


def learned_parts(rendered: Rendered, kind: str = "unigram") -> list[str]:
    """The text of each run of tokens that are learned."""
    parts: list[list[int]] = [[]]
    for label in rendered.labels.tolist():
        if label != IGNORED:
            parts[-1].append(label)
        elif parts[-1]:
            parts.append([])
    return [tokenizer(kind).decode(part, skip_special=False) for part in parts if part]


TALK = chat("Where is the lamp?", "In the tower.", "Who lights it?", "The keeper.", system="Hm.")
GOLDEN = {
    "chatml": (
        "<|im_start|>system\nHm.<|im_end|>\n"
        "<|im_start|>user\nWhere is the lamp?<|im_end|>\n"
        "<|im_start|>assistant\n[In the tower.<|im_end|>]\n"
        "<|im_start|>user\nWho lights it?<|im_end|>\n"
        "<|im_start|>assistant\n[The keeper.<|im_end|>]\n"
    ),
    "llama-3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nHm.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhere is the lamp?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[In the tower.<|eot_id|>]"
        "<|start_header_id|>user<|end_header_id|>\n\nWho lights it?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[The keeper.<|eot_id|>]"
    ),
    "mistral": (
        "<s>(INST) Hm.\n\nWhere is the lamp? (/INST)[ In the tower.</s>]"
        "(INST) Who lights it? (/INST)[ The keeper.</s>]"
    ),
    "alpaca": (
        "<s>Hm.\n\n### Instruction:\nWhere is the lamp?\n\n### Response:\n[In the tower.</s>]\n\n"
        "### Instruction:\nWho lights it?\n\n### Response:\n[The keeper.</s>]\n\n"
    ),
}
"""With what is learned in brackets; those of Mistral are round here."""


def bracketed(rendered: Rendered, kind: str) -> str:
    """The text, from its tokens one by one, as `GOLDEN` has it."""
    text, was_learned = "", False
    for id_, label in zip(rendered.ids.tolist(), rendered.labels.tolist(), strict=True):
        is_learned = label != IGNORED
        if is_learned != was_learned:
            text += "[" if is_learned else "]"
        words = tokenizer(kind).token(id_) or ""
        text += words.replace("Ġ", " ").replace("Ċ", "\n").replace("▁", " ").replace("<0x0A>", "\n")
        was_learned = is_learned
    return text + ("]" if was_learned else "")


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_learned_is_what_the_assistant_says_and_its_end(name: str) -> None:
    rendered = renderer(name, "bpe").render(TALK)
    bos, eos = (tokenizer("bpe").special_tokens[role] for role in ("bos", "eos"))
    wanted = GOLDEN[name].replace("<s>", bos).replace("</s>", eos)
    shown = bracketed(rendered, "bpe").replace("[INST]", "(INST)").replace("[/INST]", "(/INST)")
    assert shown == wanted


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<"), max_size=12)
contents = st.lists(texts.filter(str.strip), min_size=2, max_size=6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=25)
@given(said=contents)
def test_every_answer_ends_with_its_end_and_there_is_one_beginning(
    name: str, kind: str, said: list[str]
) -> None:
    made = renderer(name, kind)
    its = tokenizer(kind)
    rendered = made.render(chat(*said))
    end = ENDS[name] or its.special_tokens["eos"]
    assert its.token(made.end_id or 0) == end
    labels = rendered.labels[rendered.labels != IGNORED].tolist()
    assert labels.count(made.end_id) == len(said) // 2
    if its.bos_id != its.eos_id and name != "chatml":
        assert rendered.ids.tolist().count(its.bos_id) == 1
        assert rendered.ids[0] == its.bos_id


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=25)
@given(said=contents)
def test_what_stands_before_an_answer_is_what_a_model_is_asked(
    name: str, kind: str, said: list[str]
) -> None:
    made, conversation = renderer(name, kind), chat(*said[: len(said) // 2 * 2])
    rendered = made.render(conversation)
    assert made.template is not None
    prompt = made.template.render(conversation.messages[:-1])
    asked = tokenizer(kind).encode(prompt, add_special_tokens=False)
    # The last answer ends at the last label, and begins where the one before it has long ended.
    learned = [i for i, label in enumerate(rendered.labels.tolist()) if label != IGNORED]
    first = next(i for i in reversed(learned) if i == len(asked) or i - 1 not in learned)
    assert rendered.ids[:first].tolist() == asked


MARKED = {
    "chatml": ChatTemplate.built_in("chatml", tokenizer()).source.replace(
        "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}",
        "{{- '<|im_start|>' + message['role'] + '\\n' }}"
        "{%- if message['role'] == 'assistant' %}"
        "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
        "{{- '\\n' }}{%- else %}{{- message['content'] + '<|im_end|>\\n' }}{%- endif %}",
    ),
    "mistral": ChatTemplate.built_in("mistral", tokenizer()).source.replace(
        "{{- ' ' + message['content'] | trim + eos_token }}",
        "{%- generation %}{{- ' ' + message['content'] | trim }}{% endgeneration %}"
        "{{- eos_token }}",
    ),
}
"""With markers: around the turn with its end, and around its words alone."""


@pytest.mark.parametrize("name", MARKED)
@settings(max_examples=25)
@given(said=contents, learned=st.text("+-", min_size=3, max_size=3))
def test_markers_and_prefixes_tell_the_same(name: str, said: list[str], learned: str) -> None:
    marked = Renderer(tokenizer(), template(MARKED[name]), max_tokens=1000)
    assert marked.template is not None
    assert marked.template.has_markers
    conversation = chat(*said[: len(said) // 2 * 2], learned=f"+{learned}")
    one, other = marked.render(conversation), renderer(name).render(conversation)
    assert one.ids.tolist() == other.ids.tolist()
    assert one.labels.tolist() == other.labels.tolist()


def test_an_answer_that_is_not_to_be_learned_is_not() -> None:
    rendered = renderer("llama-3").render(chat("a", "the lamp", "b", "the tower", learned="-+"))
    assert learned_parts(rendered) == ["the tower<|eot_id|>"]


SPACED = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token if loop.index0 % 2 }}\n"
SPACED += "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_reaches_across_the_beginning_of_an_answer(kind: str) -> None:
    """Joined, the blank of the template would belong to the answer's first token."""
    made = Renderer(tokenizer(kind), template(SPACED, kind), max_tokens=100)
    rendered = made.render(chat("lamp", "the tower"))
    assert made.template is not None
    prompt = made.template.render([{"role": "user", "content": "lamp"}])
    asked = tokenizer(kind).encode(prompt, add_special_tokens=False)
    assert rendered.ids[: len(asked)].tolist() == asked
    assert rendered.labels[len(asked)] != IGNORED


def test_a_completion_is_learned_and_its_prompt_is_not() -> None:
    rendered = Renderer(tokenizer(), None, max_tokens=100).render(
        Continuation(prompt="the keeper lights", completion=" the lamp")
    )
    its = tokenizer()
    asked = its.encode("the keeper lights")
    assert rendered.ids[: len(asked)].tolist() == asked
    assert rendered.labels[: len(asked)].tolist() == [IGNORED] * len(asked)
    assert rendered.labels[-1] == its.eos_id
    assert its.decode(rendered.ids.tolist()) == "the keeper lights the lamp"


@pytest.mark.parametrize("text", ["the lamp", "<s>the lamp"])
def test_a_text_is_learned_as_a_whole_and_begins_once(text: str) -> None:
    rendered = Renderer(tokenizer(), None, max_tokens=100).render(
        Continuation(prompt="", completion=text)
    )
    assert rendered.ids.tolist().count(tokenizer().bos_id) == 1
    assert learned_parts(rendered)[0].endswith("the lamp</s>")


def test_what_does_not_fit_is_cut_and_counted() -> None:
    whole = renderer("chatml").render(TALK)
    cut = renderer("chatml", max_tokens=len(whole.ids) - 5).render(TALK)
    assert (len(cut.ids), cut.num_cut) == (len(whole.ids) - 5, 5)
    assert cut.labels.tolist() == whole.labels[:-5].tolist()


STRIPPED = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]"
    "{{ m.content.split('|')[-1] if m.role == 'assistant' and not loop.last else m.content }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""Forgets what was thought, once more is said."""
LLAMA = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
LLAMA += "{{ eos_token if m.role == 'assistant' }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "text", "says"),
    [
        (STRIPPED, chat("a", "hm|lamp", "b", "c"), "writes message 1 otherwise when it is answere"),
        (LLAMA, chat("a", "b", learned="-"), "has nothing to learn: no message of the assistant"),
        (LLAMA, chat("a"), "has nothing to learn: no message of the assistant"),
        (LLAMA, chat("a " * 60, "b"), "nothing to learn within max_tokens 60: its first answer be"),
        (LLAMA, Conversation(turns=(Turn(role="assistant", content="b"),)), "speaks first"),
        (None, chat("a", "b"), "a conversation needs a chat template"),
        ("<s>" + LLAMA, chat("a", "b"), "begins with two <s>"),
        (
            LLAMA,
            Conversation(turns=chat("a", "b").turns, tools=({"name": "light"},)),
            "the conversation has tools, which T does not write",
        ),
    ],
)
def test_what_nothing_can_be_learned_from_is_named(
    source: str | None, text: Text, says: str
) -> None:
    made = Renderer(tokenizer(), None if source is None else template(source), max_tokens=60)
    with pytest.raises(TrainingError, match=f"^chat.jsonl: record 7.*{says}"):
        made.render(text, where="chat.jsonl: record 7")


def test_thoughts_that_are_forgotten_do_not_matter_where_only_the_last_answer_is_learned() -> None:
    made = Renderer(tokenizer(), template(STRIPPED), max_tokens=60)
    rendered = made.render(chat("a", "hm|lamp", "b", "tower", learned="-+"))
    assert learned_parts(rendered) == ["tower</s>"]


def test_a_template_without_an_end_is_refused() -> None:
    with pytest.raises(TrainingError, match="no end could be learned; take a template"):
        Renderer(tokenizer(), template(LLAMA.replace("eos_token", "''")), max_tokens=60)


def test_a_template_whose_tokens_the_tokenizer_lacks_is_refused() -> None:
    bare = train_tokenizer(["the lamp <|im_end|>"] * 9, TokenizerConfig(kind="bpe", vocab_size=300))
    with pytest.raises(TrainingError, match="in which no special token of the tokenizer"):
        Renderer(bare, ChatTemplate.built_in("chatml", bare), max_tokens=60)


def test_markers_that_nest_or_stand_in_a_message_are_refused() -> None:
    nested = "{% generation %}{% generation %}x{% endgeneration %}{% endgeneration %}"
    with pytest.raises(ModelError, match="within itself"):
        Renderer(tokenizer(), template(nested), max_tokens=60)
    marked = Renderer(tokenizer(), template(MARKED["chatml"]), max_tokens=60)
    with pytest.raises(TrainingError, match="or a message holds its marks"):
        marked.render(chat("a \ufdd0", "b"))
