"""A language model of this machine: text in, text out, over a model's folder.

    model = load_local("path/to/model")
    for piece in model.generate("Once upon a time", SamplingParams(max_tokens=50)):
        print(piece.text, end="")

One text at a time. A decoder speaks the protocol that the rest of Pharos asks for
(`core.LanguageModel`), so it can stand wherever an endpoint can.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from pharos.core import Completion, Message, ModelError, SamplingParams
from pharos.data.chat_template import ChatTemplate, template_sources
from pharos.data.detokenize import StreamDecoder
from pharos.data.tokenizer import Tokenizer
from pharos.models.beam_search import Hypothesis, beam_search, greedy_search
from pharos.models.decoding import DecodingParams, read_decoding
from pharos.models.family import Model
from pharos.models.generation import FinishReason, Generated, Generation
from pharos.models.heads import CausalLM
from pharos.models.load import load_model
from pharos.models.resolve import find_model
from pharos.models.seq2seq import Seq2SeqLM
from pharos.ops import multiplies_bf16
from pharos.quant import convert
from pharos.quant.bf16 import pack_linears
from pharos.serve.engine.tensor_parallel import WHOLE, Share, split_model
from pharos.serve.stop_strings import StopStrings

DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["w8a8", "w8a16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What a token added to the text; often a word, "" if nothing is certain yet. The last piece
    has the `finish_reason` and no token."""

    text: str
    token: Generated | None = None
    finish_reason: FinishReason | None = None


class LocalModel:
    """`LanguageModel` over a decoder and its tokenizer."""

    def __init__(
        self, model: CausalLM, tokenizer: Tokenizer, template: ChatTemplate | None, *, name: str
    ) -> None:
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.template = template

    def generate(self, prompt: str, params: SamplingParams) -> Iterator[Piece]:
        """Continue a text. Special tokens are added to it as the tokenizer's file says."""
        return self.generate_ids(self.text_ids(prompt), params)

    def generate_ids(self, ids: Sequence[int], params: SamplingParams) -> Iterator[Piece]:
        """Continue a sequence of tokens."""
        decoder = StreamDecoder(self.tokenizer)
        stop = StopStrings(params.stop, include=params.include_stop)
        reason: FinishReason = "length"
        generation = Generation(self.model, [ids], params, eos_ids=self.tokenizer.eos_ids)
        for count, token in enumerate(generation, start=1):
            reason = token.finish_reason or reason
            is_left_out = token.finish_reason == "stop" and not params.include_stop
            text = "" if is_left_out else decoder.push(token.id)
            yield Piece(text=stop.push(text) if count > params.min_tokens else text, token=token)
            if stop.is_stopped:
                break
        rest = stop.push(decoder.flush()) + stop.flush()
        yield Piece(text=rest, finish_reason="stop" if stop.is_stopped else reason)

    def text_ids(self, text: str) -> list[int]:
        """The tokens of a text; one that has none begins with the `bos` token."""
        ids, bos = self.tokenizer.encode(text), self.tokenizer.bos_id
        return ids if ids or bos is None else [bos]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation, ready for the assistant's reply."""
        if self.template is None:
            raise ModelError(
                f"{self.name} has no chat template; continue a text with `pharos generate`, or "
                "name a template: --template chatml"
            )
        text = self.template.render(messages, add_generation_prompt=True)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def stream(self, messages: Sequence[Message], params: SamplingParams) -> Iterator[str]:
        for piece in self.generate_ids(self.prompt_ids(messages), params):
            if piece.text:
                yield piece.text

    def complete(self, messages: Sequence[Message], params: SamplingParams) -> Completion:
        ids = self.prompt_ids(messages)
        pieces = list(self.generate_ids(ids, params))
        return Completion(
            text="".join(piece.text for piece in pieces),
            finish_reason=pieces[-1].finish_reason or "stop",
            prompt_tokens=len(ids),
            completion_tokens=len(pieces) - 1,
        )


class LocalSeq2Seq:
    """An encoder-decoder and its tokenizer: reads a text and writes another."""

    def __init__(
        self, model: Seq2SeqLM, tokenizer: Tokenizer, decoding: DecodingParams, *, name: str
    ) -> None:
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.decoding = decoding

    def generate(
        self, text: str, *, num_beams: int | None = None, max_tokens: int | None = None
    ) -> list[Hypothesis]:
        """The likeliest targets, best first; `decode` makes text of one. One beam is greedy. What
        is not given is as the model's files say."""
        params = replace(
            self.decoding,
            num_beams=num_beams or self.decoding.num_beams,
            max_new_tokens=max_tokens or self.decoding.max_new_tokens,
        )
        ids = self.tokenizer.encode(text)
        if not ids:
            raise ValueError("the text has no tokens; an encoder-decoder needs one to rewrite")
        ids_BS = torch.tensor([ids], device=self.model.body.embedding.weight.device)
        if params.num_beams == 1:
            return greedy_search(self.model, ids_BS, params)
        return beam_search(self.model, ids_BS, params)[0]

    def decode(self, hypothesis: Hypothesis) -> str:
        return self.tokenizer.decode(hypothesis.ids)


def load_local(
    name: str | Path,
    *,
    template: str | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    quantization: Quantization | None = None,
    share: Share = WHOLE,
) -> LocalModel | LocalSeq2Seq:
    """The model of that name (see `models.resolve.find_model`). `template` names a built-in chat
    template (default: the model's own, if it has one). `device` is one of torch's; "auto" is a GPU
    if there is one. `dtype` "auto" keeps the file's, unless the processor cannot multiply in it.
    `quantization` keeps the weights of a decoder in eight bits (see `pharos.quant`), and `dtype`
    then has no say. Of a decoder that is split over processes, `share` is kept. Raises ModelError
    for what does not generate text or cannot be quantized, and ValueError for a device that is not
    there or a model that cannot be shared so."""
    folder = find_model(str(name))
    place = _device(device)
    tokenizer = Tokenizer.load(folder.path)
    chat = _chat_template(folder.path, tokenizer, template)
    model = load_model(folder.path, device=place)
    if isinstance(model, CausalLM):
        split_model(model, share)
    if quantization is None:
        pack_linears(model.to(_dtype(dtype, model, place)))
    else:
        _quantize(model, quantization, folder.name)
    if isinstance(model, Seq2SeqLM):
        return LocalSeq2Seq(model, tokenizer, read_decoding(folder.path), name=folder.name)
    if isinstance(model, CausalLM):
        return LocalModel(model, tokenizer, chat, name=folder.name)
    raise ModelError(
        f"{folder.name} is a {type(model).__name__}; text is generated by a model whose "
        "architecture ends in ForCausalLM, LMHeadModel or ForConditionalGeneration"
    )


def _quantize(model: Model, method: Quantization, name: str) -> None:
    if not isinstance(model, CausalLM):
        raise ModelError(f"{name} is no decoder, and {method} is for decoders; leave it out")
    convert(model, method)


def _chat_template(folder: Path, tokenizer: Tokenizer, name: str | None) -> ChatTemplate | None:
    if name is not None:
        return ChatTemplate.built_in(name, tokenizer)
    return ChatTemplate.load(folder, tokenizer) if template_sources(folder) else None


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the device {name!r} cannot be used ({reason}); choose cpu, or auto"
        ) from error
    return device


def _dtype(asked: DType, model: Model, device: torch.device) -> torch.dtype:
    if asked != "auto":
        chosen: torch.dtype = getattr(torch, asked)
        return chosen
    stored = next(model.parameters()).dtype
    is_slow = stored == torch.float16 or (stored == torch.bfloat16 and not multiplies_bf16())
    if device.type == "cpu" and is_slow:
        return torch.bfloat16 if multiplies_bf16() else torch.float32
    return stored
