import re
from typing import Any

import httpx
import openai
import pytest

from pharos.serve.http.parameters import MOST_ENTRIES


def test_models_are_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").max_model_len == 2048  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_text_and_tokens_become_each_other(running: Any) -> None:
    text = "The keeper ☀ <|im_end|>"
    body = {"prompt": text, "return_token_strs": True}
    told = httpx.post(f"{running.url}/tokenize", json=body).json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    back = httpx.post(f"{running.url}/detokenize", json={"tokens": told["tokens"]}).json()
    assert back == {"prompt": text}
    many = {"tokens": [5] * (MOST_ENTRIES + 1)}
    for path, wrong in (("tokenize", {}), ("detokenize", {"tokens": [-1]}), ("detokenize", many)):
        assert httpx.post(f"{running.url}/{path}", json=wrong).status_code == 400


def test_half_a_surrogate_pair_is_read_as_it_is_written(running: Any) -> None:
    headers = {"Content-Type": "application/json"}
    for path, body in {
        "tokenize": b'{"prompt": %s}',
        "v1/completions": b'{"model": "tiny", "prompt": %s, "max_tokens": 1}',
        "v1/chat/completions": b'{"model": "tiny", "messages": [{"role": "user", "content": %s}]}',
        "v1/embeddings": b'{"model": "tiny", "input": %s}',
    }.items():
        content = body % b'"\\ud800"'
        reply = httpx.post(f"{running.url}/{path}", content=content, headers=headers, timeout=600)
        assert reply.status_code == 200, path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "input should be"),
        (b"null", "the body"),
        (b'{"model": "tiny"}', "prompt is missing"),
        (b'{"model": "tiny", "prompt": {"a": 1}}', "prompt"),
        (b'{"model": "tiny", "prompt": "x", "seed": 1e400}', "seed"),
        (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', "temperature"),
        (b"[" * 100_000, "JSON"),
        (b"\xff", "JSON"),
    ],
)
def test_a_body_that_makes_no_sense_is_told_what_is_wrong(
    running: Any, content: bytes, says: str
) -> None:
    headers = {"Content-Type": "application/json"}
    reply = httpx.post(f"{running.url}/v1/completions", content=content, headers=headers)
    assert reply.status_code == 400
    assert says in reply.json()["error"]["message"]


def test_a_body_of_another_type_is_told_which_it_must_have(running: Any) -> None:
    reply = httpx.post(f"{running.url}/v1/completions", data={"model": "tiny"})
    assert reply.status_code == 400
    assert "Content-Type: application/json" in reply.json()["error"]["message"]


def test_paths_and_methods_that_are_not_there_are_told_in_openais_format(running: Any) -> None:
    for reply, status in (
        (httpx.get(f"{running.url}/nowhere"), 404),
        (httpx.get(f"{running.url}/v1/completions"), 405),
    ):
        assert reply.status_code == status
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_the_api_describes_itself(running: Any) -> None:
    described = httpx.get(f"{running.url}/openapi.json").json()
    assert "/v1/chat/completions" in described["paths"]
    assert httpx.get(f"{running.url}/docs").status_code == 404


def test_the_official_client_reaches_what_openai_does_not_have(client: openai.OpenAI) -> None:
    assert client.get("/../health", cast_to=dict[str, Any]) == {"status": "ok"}
    body = {"prompt": "The keeper"}
    told = client.post("/../tokenize", body=body, cast_to=dict[str, Any])
    back = {"tokens": told["tokens"]}
    assert client.post("/../detokenize", body=back, cast_to=dict[str, Any]) == body
    assert "pharos:generation_tokens_total" in client.get("/../metrics", cast_to=str)


def test_metrics_have_the_names_of_vllms(client: openai.OpenAI, running: Any) -> None:
    client.completions.create(model="tiny", prompt="The keeper", max_tokens=5, n=2)
    text = httpx.get(f"{running.url}/metrics").text
    for name in (
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "num_preemptions_total",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "spec_decode_num_accepted_tokens_total",
        "iteration_tokens_total_bucket",
        "cache_config_info",
        "lora_requests_info",
        "prompt_tokens_total",
        "prompt_tokens_cached_total",
        "generation_tokens_total",
        "request_success_total",
        "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_sum",
        "request_time_per_output_token_seconds_count",
        "e2e_request_latency_seconds_count",
        "request_queue_time_seconds_count",
        "request_prefill_time_seconds_count",
        "request_decode_time_seconds_count",
        "request_inference_time_seconds_count",
        "request_prompt_tokens_count",
        "request_prefill_kv_computed_tokens_count",
        "request_generation_tokens_count",
        "request_max_num_generation_tokens_count",
        "request_params_max_tokens_count",
        "request_params_n_count",
    ):
        labels = r'\{[^}]*\bengine="0",'
        assert re.search(f"^pharos:{name}{labels}", text, re.MULTILINE), name


def test_what_was_asked_for_is_counted_once_a_prompt_and_lengths_once_a_text(
    client: openai.OpenAI, running: Any
) -> None:
    def told(name: str) -> float:
        text = httpx.get(f"{running.url}/metrics").text
        (line,) = re.findall(rf"^pharos:{name}{{.*", text, re.MULTILINE)
        return float(line.rpartition(" ")[2])

    expected = {
        "request_params_n_count": 2,
        "request_params_n_sum": 4,
        "request_max_num_generation_tokens_sum": 2 * 5,
        "request_params_max_tokens_count": 4,
        "request_generation_tokens_sum": 4 * 5,
    }
    before = {name: told(name) for name in expected}
    asked = {"model": "tiny", "prompt": ["The keeper", "gulls"], "max_tokens": 5, "n": 2}
    client.completions.create(**asked, extra_body={"ignore_eos": True})
    assert {name: told(name) - before[name] for name in expected} == expected
