import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html
from tokenizers import Tokenizer as Backend
from tokenizers import models

from pharos.data.tokenizer import Tokenizer
from pharos.models.doubles import tiny_llama
from pharos.models.heads import CausalLM
from pharos.models.load import build_model
from pharos.models.trace import Trace, trace
from pharos.serve.trace_page import TEMPLATE, page_data, quantized, token_text, trace_page

DOM = Path(__file__).with_name("dom.js")
LLAMA = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
FALCON = {
    "model_type": "falcon",
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "{{trace}}",
    "\u2028\u2029\u202e",
    "\x00\x1b[2J",
    "https://evil.example/",
    "constructor",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A vocabulary of hostile tokens, of which a model writes whatever it likes."""
    return of_words([*HOSTILE, *(f"word{i}" for i in range(50 - len(HOSTILE)))])


def of_words(words: Sequence[str]) -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate(words)}
    return Tokenizer(Backend(models.WordLevel(vocabulary, words[-1])))


@pytest.fixture(scope="module")
def found() -> Trace:
    return trace(tiny_llama(), list(range(12)), [3, 4])


def data_in(page: str) -> dict[str, Any]:
    """What a browser would hand to the page's script."""
    (element,) = html.document_fromstring(page).xpath("//script[@type='application/json']")
    data: dict[str, Any] = json.loads(element.text)
    return data


def test_the_page_holds_the_trace(found: Trace, tokenizer: Tokenizer) -> None:
    data = data_in(trace_page(found, tokenizer, name="tiny"))
    assert data == json.loads(json.dumps(page_data(found, tokenizer, name="tiny")))
    assert data["tokens"] == [token_text(tokenizer, id_) for id_ in found.ids]
    ids = np.frombuffer(base64.b64decode(data["candidates"]), "<i4").reshape(3, 14, 5)
    shares = np.frombuffer(base64.b64decode(data["shares"]), "<f4").reshape(3, 14, 5)
    assert np.array_equal(ids, found.candidates_NTC)
    assert np.array_equal(shares, found.shares_NTC)
    assert {str(id_) for id_ in ids.flatten()} == set(data["texts"])


def test_eight_bits_keep_a_share_to_half_a_percent(found: Trace) -> None:
    rows = np.split(quantized(found).reshape(2, 4, -1), np.cumsum(np.arange(2, 15)), axis=-1)
    for i, levels in enumerate(rows):
        shares = (levels / 255.0) ** 2
        assert not shares[..., 0].any()
        expected = found.attention_LHTT[:, :, i, : i + 1].numpy()
        assert np.abs(shares[..., 1:] - expected).max() <= 0.005


def test_what_came_before_the_traced_tokens_is_kept(found: Trace, tokenizer: Tokenizer) -> None:
    later = replace(found, before_LHT=torch.full_like(found.before_LHT, 0.25))
    levels = quantized(later).reshape(2, 4, -1)
    assert (levels[..., 0] == round(255 * 0.5)).all()


def test_tokens_are_data_and_never_markup(found: Trace, tokenizer: Tokenizer) -> None:
    page = trace_page(found, tokenizer, name="<script>alert(1)</script>")
    document = html.document_fromstring(page)
    assert len(document.xpath("//script")) == 2
    assert not document.xpath("//img")
    assert document.findtext(".//title") == "<script>alert(1)</script>: a forward pass"


@settings(max_examples=50, deadline=None)
@given(text=st.text(), name=st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_text_comes_back_as_it_was(found: Trace, text: str, name: str) -> None:
    tokenizer = of_words([text, *(f"{i} {text}" for i in range(49))])
    page = trace_page(found, tokenizer, name=name)
    data = data_in(page)
    assert data["tokens"] == [token_text(tokenizer, id_) for id_ in found.ids]
    assert data["model"] == name
    inside = page.partition('id="trace">')[2].partition("</script>")[0]
    assert inside.isascii() and not set(inside) & set("<>&")


def test_the_page_names_no_address_and_fetches_nothing(found: Trace, tokenizer: Tokenizer) -> None:
    page = trace_page(found, tokenizer, name="tiny")
    template = TEMPLATE.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w|url\(|@import|fetch\(|XMLHttp|innerHTML", template)
    document = html.document_fromstring(page)
    assert not document.xpath("//@href | //@src | //@srcset | //link | //iframe | //object")
    assert not document.xpath("//@*[starts-with(name(), 'on')] | //@style")


def test_the_policy_runs_the_pages_own_script_and_no_other(
    found: Trace, tokenizer: Tokenizer
) -> None:
    document = html.document_fromstring(trace_page(found, tokenizer, name="tiny"))
    (policy,) = document.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (element,) = document.xpath(f"//{tag}[not(@type)]")
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize(
    "raw",
    [
        LLAMA,
        LLAMA | {"model_type": "qwen3"},
        LLAMA | {"model_type": "mixtral", "num_local_experts": 2},
        {"model_type": "gpt2", "vocab_size": 50, "n_embd": 8, "n_layer": 1, "n_head": 2},
        FALCON,
        FALCON | {"alibi": True, "parallel_attn": False},
    ],
    ids=["llama", "qwen3", "mixtral", "gpt2", "falcon", "falcon, sequential"],
)
def test_every_stage_is_explained(raw: dict[str, Any], tokenizer: Tokenizer) -> None:
    model = build_model(raw, "causal_lm")
    assert isinstance(model, CausalLM)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    stages = page_data(trace(model, [1, 2, 3]), tokenizer, name="tiny")["stages"]
    assert [stage["name"] for stage in stages if not stage["explained"]] == []


def test_a_token_reads_as_in_a_text() -> None:
    tokenizer = of_words(["\u2581the", "a\nb", "\x07", "\u200b", "the"])
    shown = [token_text(tokenizer, id_) for id_ in (1, 4, 99)]
    assert shown == ["a\nb", "the", "#99"]


def test_a_byte_is_shown_as_the_vocabulary_writes_it(llama_folder: Path) -> None:
    tokenizer = Tokenizer.load(llama_folder)
    ids = tokenizer.encode(" light🗼")
    assert [token_text(tokenizer, id_) for id_ in ids] == [" light", "ð", "Ł", "Ĺ", "¼"]


# The script, in node where there is one


def run_page(page: str, script: str, folder: Path) -> Any:
    """What `script` returns after the page's own script has run."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = ["node", DOM, path, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


@needs_node
def test_the_script_reads_the_numbers_that_were_written(
    found: Trace, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    page = trace_page(found, tokenizer, name="tiny")
    script = "return [[...row(matrix(1, 2), 9)], [...row(matrix('all', 'all'), 9)]]"
    of_head, of_all = run_page(page, script, tmp_path)
    expected = found.attention_LHTT[:, :, 9, :10]
    assert of_head[0] == 0.0
    assert np.abs(np.array(of_head[1:]) - expected[1, 2].numpy()).max() <= 0.005
    assert np.abs(np.array(of_all[1:]) - expected.mean((0, 1)).numpy()).max() <= 0.005


@needs_node
def test_the_page_shows_hostile_tokens_as_text(
    found: Trace, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    page = trace_page(found, tokenizer, name=HOSTILE[0])
    script = """
        return [byId("model").textContent, options.map((option) => option.textContent),
                ["script", "img"].flatMap((tag) => byId("strip").all(tag)).length]"""
    model, texts, markup = run_page(page, script, tmp_path)
    assert model == HOSTILE[0]
    assert texts == [token_text(tokenizer, id_) for id_ in found.ids]
    assert markup == 0


@needs_node
def test_keys_and_clicks_choose_tokens_and_heads(
    found: Trace, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    page = trace_page(found, tokenizer, name="tiny")
    script = """
        const seen = [state.token];
        byId("strip").fire("keydown", { key: "ArrowRight" });
        seen.push(state.token, byId("after").textContent.includes(tokens[13]));
        byId("strip").fire("click", { target: options[2] });
        byId("grid").all("button")[5].fire("click");
        seen.push(state.token, byId("which").textContent, byId("enlarged").open);
        byId("enlarged").fire("keydown", { key: "ArrowLeft" });
        byId("large").fire("pointermove", { clientX: 170, clientY: 990 });
        return [...seen, byId("which").textContent, byId("pixel").textContent]"""
    *seen, pixel = run_page(page, script, tmp_path)
    assert seen == [11, 12, True, 2, "Layer 2, head 2", True, "Layer 2, head 1"]
    share = found.attention_LHTT[1, 0, 13, 0].item()
    assert pixel.startswith(f"{HOSTILE[4]} (token 14) looks at {HOSTILE[0]} (token 1): ")
    assert float(pixel.split()[-2]) == pytest.approx(100 * share, abs=1.0)
