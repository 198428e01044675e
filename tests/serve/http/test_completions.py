from pathlib import Path

import openai
import pytest

from pharos.core import SamplingParams
from pharos.data.tokenizer import Tokenizer
from pharos.models.generation import Generation
from pharos.models.load import load_model

PROMPT = "The keeper of the light"


@pytest.fixture(scope="module")
def tokenizer(llama_folder: Path) -> Tokenizer:
    return Tokenizer.load(llama_folder)


def test_the_text_is_what_the_model_writes_alone(
    client: openai.OpenAI, llama_folder: Path, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode(PROMPT)
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=7)
    alone = [
        token.id
        for token in Generation(load_model(llama_folder), [ids], params, eos_ids=tokenizer.eos_ids)
    ]
    completion = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=20, seed=7, extra_body={"return_token_ids": True}
    )
    choice = completion.choices[0]
    assert choice.token_ids == alone  # type: ignore[attr-defined]
    assert choice.prompt_token_ids == ids  # type: ignore[attr-defined]
    assert choice.text == tokenizer.decode(alone)
    assert choice.finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(ids)
    assert completion.usage.completion_tokens == 20
    assert completion.usage.total_tokens == len(ids) + 20


def test_a_stream_adds_up_to_the_text(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 30, "seed": 3, "n": 2}
    whole = client.completions.create(**asked)
    texts, reasons, usage = ["", ""], [None, None], None
    options = {"include_usage": True}
    for chunk in client.completions.create(**asked, stream=True, stream_options=options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert texts[0] != texts[1]


def test_a_seed_gives_the_same_text_again_and_choices_of_their_own(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "seed": 5}
    pair = client.completions.create(**asked, n=2).choices
    again = client.completions.create(**asked).choices[0]
    assert again.text == pair[0].text != pair[1].text
    other = client.completions.create(**asked | {"seed": 6}).choices[0]
    assert other.text == pair[1].text


def test_several_prompts_each_have_their_choices(
    client: openai.OpenAI, tokenizer: Tokenizer
) -> None:
    prompts = [PROMPT, "seven gulls"]
    asked = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    together = client.completions.create(prompt=prompts, n=2, **asked)
    alone = [
        client.completions.create(prompt=prompt, **asked).choices[0].text for prompt in prompts
    ]
    assert [choice.text for choice in together.choices] == [alone[0]] * 2 + [alone[1]] * 2
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(len(tokenizer.encode(text)) for text in prompts)
    by_ids = client.completions.create(prompt=[tokenizer.encode(text) for text in prompts], **asked)
    assert [choice.text for choice in by_ids.choices] == alone


def test_a_text_ends_before_its_stop_string(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    free = client.completions.create(**asked).choices[0].text
    stop = free[10:13]
    choice = client.completions.create(**asked, stop=["never written", stop]).choices[0]
    assert choice.text == free[: free.index(stop)]
    assert choice.finish_reason == "stop"
    assert choice.stop_reason == stop  # type: ignore[attr-defined]
    with_it = client.completions.create(
        **asked, stop=stop, extra_body={"include_stop_str_in_output": True}
    )
    assert with_it.choices[0].text == free[: free.index(stop)] + stop


def test_a_bias_decides_what_is_written(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    id_ = tokenizer.encode("g")[-1]
    completion = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=3, logit_bias={str(id_): 100}, temperature=0
    )
    assert completion.choices[0].text == tokenizer.text_of(id_) * 3


def test_log_probabilities_stand_beside_their_tokens(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "temperature": 0, "logprobs": 3}
    choice = client.completions.create(**asked).choices[0]
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None and told.top_logprobs is not None
    assert len(told.tokens) == len(told.token_logprobs or ()) == len(told.text_offset or ()) == 6
    for token, logprob, best in zip(
        told.tokens, told.token_logprobs or (), told.top_logprobs, strict=True
    ):
        assert max(best.values()) == best[token] == logprob <= 0
    streamed = [
        token
        for chunk in client.completions.create(**asked, stream=True)
        for token in (chunk.choices[0].logprobs.tokens or () if chunk.choices[0].logprobs else ())
    ]
    assert streamed == told.tokens


def test_a_text_obeys_what_it_is_asked_to(client: openai.OpenAI) -> None:
    for constraint, allowed in (
        ({"choice": ["yes", "no"]}, {"yes", "no"}),
        ({"regex": "(ab){2}c"}, {"ababc"}),
        ({"grammar": 'root ::= "x" | "y"'}, {"x", "y"}),
        ({"grammar": 'start: "p" | "q"'}, {"p", "q"}),
    ):
        completion = client.completions.create(
            model="tiny",
            prompt=PROMPT,
            max_tokens=20,
            extra_body={"structured_outputs": constraint},
        )
        assert completion.choices[0].text in allowed
        assert completion.choices[0].finish_reason == "stop"


def test_an_echo_begins_with_the_prompt(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4, "temperature": 0}
    plain = client.completions.create(**asked).choices[0].text
    assert client.completions.create(**asked, echo=True).choices[0].text == PROMPT + plain
    chunks = client.completions.create(**asked, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == PROMPT + plain


def test_a_prompt_is_cut_from_its_beginning(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    completion = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=1, extra_body={"truncate_prompt_tokens": 3}
    )
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 3


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 1, "echo": True}, "echo"),
        ({"extra_body": {"guided_json": {}}}, "guided_json"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 100}, "n"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, "logit_bias"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [99_999]}, "prompt"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"structured_outputs": {"regex": "a", "choice": ["b"]}}},
         "structured_outputs"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(
    client: openai.OpenAI, given: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{"model": "tiny", "prompt": PROMPT, "max_tokens": 4} | given)
    assert refused.value.param == param
    assert param in refused.value.message
    assert refused.value.type == "invalid_request_error"


def test_a_parameter_that_asks_for_nothing_is_accepted(client: openai.OpenAI) -> None:
    extra = {"best_of": 1, "suffix": None, "service_tier": "auto", "use_beam_search": False}
    client.completions.create(model="tiny", prompt=PROMPT, max_tokens=1, extra_body=extra)


def test_a_grammar_that_cannot_be_read_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="grammar"):
        client.completions.create(
            model="tiny",
            prompt=PROMPT,
            extra_body={"structured_outputs": {"grammar": "root ::= missing"}},
        )


def test_a_model_that_is_not_served_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'other' is not served here; choose from tiny"):
        client.completions.create(model="other", prompt=PROMPT)
