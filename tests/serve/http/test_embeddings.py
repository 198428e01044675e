import math
from typing import Any

import openai
import pytest

TEXTS = ["The keeper of the light feeds seven gulls.", "harbour", "Alexandria"]


def test_a_vector_does_not_depend_on_the_texts_beside_it(client: openai.OpenAI) -> None:
    together = client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    alone = client.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="float")
    assert [entry.index for entry in together.data] == [0, 1, 2]
    assert together.data[0].embedding == pytest.approx(alone.data[0].embedding, abs=1e-4)
    assert together.usage.prompt_tokens > alone.usage.prompt_tokens > 0


def test_both_encodings_hold_the_same_numbers(client: openai.OpenAI) -> None:
    plain = client.embeddings.create(model="tiny", input="harbour", encoding_format="float")
    packed = client.embeddings.create(model="tiny", input="harbour")  # base64, by itself
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert math.hypot(*plain.data[0].embedding) == pytest.approx(1, abs=1e-4)


def test_documents_come_in_the_order_of_their_relevance(client: openai.OpenAI) -> None:
    body = {"model": "tiny", "query": TEXTS[1], "documents": TEXTS, "top_n": 2}
    told = client.post("/../rerank", body=body, cast_to=dict[str, Any])
    first, second = told["results"]
    assert first["index"] == 1
    assert first["relevance_score"] == pytest.approx(1, abs=1e-4)
    assert first["document"] == {"text": TEXTS[1]}
    assert second["relevance_score"] <= first["relevance_score"]


def test_what_cannot_be_honoured_is_refused_by_name(client: openai.OpenAI) -> None:
    for given in ({"dimensions": 8}, {"input": []}, {"input": "gulls " * 4000}):
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(**{"model": "tiny", "input": "x"} | given)
        assert refused.value.param is not None
    with pytest.raises(openai.BadRequestError, match="rank_fields"):
        body = {"model": "tiny", "query": "x", "documents": ["y"], "rank_fields": ["a"]}
        client.post("/../rerank", body=body, cast_to=dict[str, Any])
