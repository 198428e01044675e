"""A recipe's conversations, or pairs of them, as the rows that a run reads, and the chat template
that goes with them.

All are rendered before the run begins: what nothing can be learned from is found then, and not an
hour later. The template is saved beside what was trained, so that answers are asked for in the form
that was learned, and end where they were taught to.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pharos.core.errors import TrainingError
from pharos.core.json_files import read_object, write_object
from pharos.data.chat_template import BUILT_IN, ChatTemplate, template_sources, token_names
from pharos.data.conversations import (
    Continuation,
    Conversation,
    Example,
    Judgement,
    Preference,
    Text,
)
from pharos.data.formats import FORMATS, FormatName, read_examples
from pharos.data.order import Shuffled
from pharos.data.records import read_records
from pharos.data.rendered_rows import (
    PackedRows,
    PreferenceRows,
    RenderedRows,
    RenderingReport,
    check_single_answer,
    left_out,
    rendered_once,
)
from pharos.data.rendering import Rendered, Renderer, TooLongError
from pharos.data.rows import Rows, row_generator
from pharos.data.tokenizer import Tokenizer
from pharos.train.data_section import RecordData
from pharos.train.text_data import Data

TEMPLATE_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"
RENDERED_FILE = "rendered.npz"
OF_TEXTS, OF_PAIRS = ("sft",), ("dpo", "reward")
CONVERSATIONAL = (*OF_TEXTS, *OF_PAIRS)
"""Objectives that learn from conversations."""
OF_SINGLE_ANSWERS = ("dpo",)
"""Those that learn to say the whole of an answer. (A reward model only reads it.)"""
OF_TEXTS_MADE, OF_PAIRS_MADE = (Conversation, Continuation), (Preference,)
SAMPLED = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """How conversations are rendered in a run, and `generation`, what the model's folder says of
    generating."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    generation: dict[str, object]

    @classmethod
    def of(cls, data: RecordData, folder: Path, tokenizer: Tokenizer) -> "Chat":
        """With the template that the recipe names, or that of the folder of the tokenizer. What is
        generated will stop where the template ends a turn."""
        template = _template(data.template, folder, tokenizer)
        end_id = Renderer(tokenizer, template, max_tokens=data.max_tokens).end_id
        known = () if end_id is None else (end_id,)
        eos_ids = tuple(dict.fromkeys([*known, *tokenizer.eos_ids]))
        path = folder / GENERATION_FILE
        before = read_object(path) if path.is_file() else {}
        return cls(
            tokenizer=replace(tokenizer, eos_ids=eos_ids),
            template=template,
            generation={**before, "eos_token_id": list(eos_ids)},
        )

    def prompt_ids(self, question: str) -> list[int]:
        """A question, ready to be answered."""
        if self.template is None:
            return self.tokenizer.encode(question)
        text = self.template.render([{"role": "user", "content": question}])
        return self.tokenizer.encode(text, add_special_tokens=False)

    def render(self, texts: Sequence[tuple[str, Text]], data: RecordData) -> list[Rendered]:
        """Each text, with what errors call it; nothing of one that is left out."""
        renderer = Renderer(self.tokenizer, self.template, max_tokens=data.max_tokens)
        return [_rendered(renderer, text, where, data) for where, text in texts]

    def key(self, texts: Sequence[tuple[str, Text]], data: RecordData) -> str:
        """Equal where the same would be rendered in the same way."""
        digest = hashlib.blake2b(digest_size=16)
        source = None if self.template is None else self.template.source
        for part in (
            data.max_tokens,
            data.too_long,
            source,
            self.tokenizer.backend.to_str(),
            *texts,
        ):
            digest.update(repr(part).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """What belongs beside the weights."""
        write_object(folder / GENERATION_FILE, self.generation)
        if self.template is not None:
            (folder / TEMPLATE_FILE).write_text(self.template.source, encoding="utf-8")


def _template(named: str | None, folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    if named is None:
        has_one = "default" in template_sources(folder)
        return ChatTemplate.load(folder, tokenizer) if has_one else None
    if named in BUILT_IN:
        return ChatTemplate.built_in(named, tokenizer)
    path = Path(named)
    if not path.is_file():
        raise TrainingError(
            f"data.template is {named!r}, which is neither a file nor one of "
            f"{', '.join(BUILT_IN)}; leave it out for the model's own"
        )
    source = path.read_text(encoding="utf-8")
    return ChatTemplate(source, token_names(tokenizer), name=str(path))


def conversation_data(
    data: RecordData, objective: str, chat: Chat, folder: Path, *, seed: int
) -> Data:
    """The stream and the validation rows of an objective that learns from conversations. What was
    rendered stays in `folder`, and is used again by a run that resumes."""
    format_name, training, held_out = _examples(data, objective, seed)
    if not training:
        raise TrainingError(
            f"data.validation {data.validation} leaves no example to train on; make it smaller"
        )
    texts = [(where, text) for where, each in training + held_out for text in texts_of(each)]
    rendered = rendered_once(
        folder / RENDERED_FILE, chat.key(texts, data), lambda: chat.render(texts, data)
    )
    named = [(where, each) for (where, _), each in zip(texts, rendered, strict=True)]
    each = 2 if objective in OF_PAIRS else 1
    count = len(training) * each
    learned, others = _kept(named[:count], each), _kept(named[count:], each)
    if not learned:
        raise TrainingError(f"all of {data.records} is too long; make data.max_tokens larger")
    rows = _rows(learned, objective, data)
    report = RenderingReport.of(
        [text for _, text in learned],
        format_name=format_name,
        num_left_out=count - len(learned),
        sampled=[text for _, text in texts[: min(count, SAMPLED)]],
        tokenizer=chat.tokenizer,
    )
    return Data(
        stream=Shuffled(rows, seed),
        validation=_rows(others, objective, data) if others else None,
        summary=_summary(report, rows, data),
        report=report,
    )


Numbered = list[tuple[str, Example]]
"""Examples, with what errors call each."""


def _examples(data: RecordData, objective: str, seed: int) -> tuple[FormatName, Numbered, Numbered]:
    """The format, what is trained on, and what is held out."""
    format_name, found = _read(data.records, data, objective)
    if isinstance(data.validation, str):
        return format_name, found, _read(Path(data.validation), data, objective)[1]
    order = row_generator("split", seed).permutation(len(found))
    held_out = set(order[: round(data.validation * len(found))].tolist())
    kept = [example for i, example in enumerate(found) if i not in held_out]
    return format_name, kept, [found[i] for i in sorted(held_out)]


def _read(path: Path, data: RecordData, objective: str) -> tuple[FormatName, Numbered]:
    found = read_examples(read_records(path), named=data.format, where=str(path))
    wanted = OF_PAIRS_MADE if objective in OF_PAIRS else OF_TEXTS_MADE
    made = FORMATS[found.format].makes
    if made not in wanted:
        fitting = ", ".join(name for name, each in FORMATS.items() if each.makes in wanted)
        raise TrainingError(
            f"{path} is {found.format}, each record a {made.__name__.lower()}, which {objective} "
            f"does not learn from; give it {fitting}"
        )
    where = (f"{path}: record {number}" for number in range(len(found.examples)))
    return found.format, list(zip(where, found.examples, strict=True))


def texts_of(example: Example) -> tuple[Text, ...]:
    """One text, or the chosen and the rejected of a pair."""
    if isinstance(example, Preference):
        return example.chosen, example.rejected
    return (example.text,) if isinstance(example, Judgement) else (example,)


def _rendered(renderer: Renderer, text: Text, where: str, data: RecordData) -> Rendered:
    try:
        return renderer.render(text, where=where)
    except TooLongError:
        if data.too_long == "error":
            raise
        return left_out()


Named = Sequence[tuple[str, Rendered]]
"""Rendered texts, with what errors call each."""


def _kept(rendered: Named, each: int) -> Named:
    """Without the examples, of `each` texts, that have one which is left out."""
    examples = (rendered[i : i + each] for i in range(0, len(rendered), each))
    return [text for texts in examples if all(len(t.ids) for _, t in texts) for text in texts]


def _rows(rendered: Named, objective: str, data: RecordData) -> Rows:
    if objective in OF_SINGLE_ANSWERS:
        for name, text in rendered:
            check_single_answer(text, name)
    texts = [text for _, text in rendered]
    if objective in OF_PAIRS:
        names = (name for name, _ in rendered[::2])
        return PreferenceRows(zip(texts[::2], texts[1::2], strict=True), names)
    rows = RenderedRows(texts)
    return PackedRows(rows, data.max_tokens) if data.packing else rows


def _summary(report: RenderingReport, rows: Rows, data: RecordData) -> str:
    told = (
        f"{report.format}: {len(rows):,} rows of {report.num_texts:,} texts, "
        f"{report.num_tokens:,} tokens, {report.num_learned:,} learned"
    )
    if report.num_left_out:
        told += f"; {report.num_left_out:,} too long to learn anything from were left out"
    if not report.num_cut:
        return told
    return (
        f"{told}; {report.num_cut:,} texts were cut to max_tokens {data.max_tokens} and lost "
        f"{report.tokens_cut:,} tokens at their ends"
    )
