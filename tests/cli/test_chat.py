import io
import sys

import pytest

from pharos.core import Message, SamplingParams
from pharos.serve.local import LocalModel, load_local

OPTIONS = ("--template", "chatml", "--temperature", 0, "--top-p", 1, "--max-tokens", 24)
PARAMS = SamplingParams(max_tokens=24)


@pytest.fixture
def chat(pharos, llama_folder, monkeypatch):
    """`pharos chat` with these lines piped into it."""

    def run(*lines: str, options: tuple[object, ...] = OPTIONS):
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        return pharos("chat", llama_folder, *options)

    return run


@pytest.fixture(scope="module")
def model(llama_folder) -> LocalModel:
    loaded = load_local(llama_folder, template="chatml")
    assert isinstance(loaded, LocalModel)
    return loaded


def replies(model: LocalModel, *lines: str, system: str | None = None) -> list[str]:
    """What the model replies to one line after the other."""
    messages = [Message(role="system", content=system)] if system else []
    found = []
    for line in lines:
        messages.append(Message(role="user", content=line))
        found.append(model.complete(messages, PARAMS).text)
        messages.append(Message(role="assistant", content=found[-1]))
    return found


def shown(texts: list[str]) -> str:
    """As the terminal has them: nothing that steers it."""
    from pharos.cli.terminal import printable

    return "".join(printable(f"{text}\n") for text in texts)


def test_each_line_is_a_message_and_the_model_remembers(chat, model) -> None:
    run = chat("Who feeds the gulls?", "And when?")
    expected = replies(model, "Who feeds the gulls?", "And when?")
    assert (run.code, run.err) == (0, "")
    assert run.out == shown(expected)
    assert expected[1] != replies(model, "And when?")[0]


def test_reset_forgets_the_conversation(chat, model) -> None:
    run = chat("Who feeds the gulls?", "/reset", "And when?")
    assert run.out == shown(replies(model, "Who feeds the gulls?") + replies(model, "And when?"))


def test_what_the_model_was_told_first_outlives_a_reset(chat, model) -> None:
    system = "Answer in one word."
    run = chat("Who?", "/reset", "Who?", options=(*OPTIONS, "--system", system))
    (reply,) = replies(model, "Who?", system=system)
    assert run.out == shown([reply, reply])
    assert reply != replies(model, "Who?")[0]


def test_quit_ends_it_and_what_comes_after_is_not_read(chat, model) -> None:
    run = chat("Who?", "/quit", "And when?")
    assert run.out == shown(replies(model, "Who?"))


def test_empty_lines_and_unknown_commands_are_no_messages(chat, model) -> None:
    run = chat("", "  ", "/help", "Who?")
    assert run.out == shown(replies(model, "Who?"))
    assert "unknown command /help; /reset forgets" in run.err


def test_a_seed_repeats_the_conversation(chat) -> None:
    options = (*OPTIONS[:2], "--max-tokens", 6, "--temperature", 1, "--seed")
    first, second, other = (chat("a", "b", options=(*options, seed)).out for seed in (1, 1, 2))
    assert first == second != other


def test_a_model_without_a_template_says_how_to_go_on(chat) -> None:
    run = chat("Who?", options=())
    assert run.code == 1
    assert "tiny-llama has no chat template" in run.err
    assert "--template chatml" in run.err


def test_an_encoder_decoder_holds_no_conversation(pharos, t5_folder) -> None:
    run = pharos("chat", t5_folder)
    assert run.code == 2
    assert "use pharos generate" in " ".join(run.err.split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--temperature", -1), "temperature is -1.0"),
        (("--template", "nosuch"), "'nosuch'; choose from alpaca"),
        (("--device", "nosuch"), "the device 'nosuch'"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_bad_values_are_wrong_use(chat, options, says) -> None:
    run = chat("Who?", options=options)
    assert run.code == 2
    assert says in run.err


def test_a_line_in_another_code_is_wrong_use(chat) -> None:
    run = chat("Lumi\udce8re")
    assert run.code == 2
    assert "not UTF-8" in run.err
