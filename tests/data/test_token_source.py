import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pharos.data.token_source import TokenArrays


@given(st.lists(st.lists(st.integers(0, 70_000), max_size=5), max_size=8))
def test_documents_stand_one_after_another(documents: list[list[int]]) -> None:
    source = TokenArrays.of_documents(documents)
    assert source.num_documents == len(documents)
    assert source.lengths.tolist() == [len(document) for document in documents]
    assert [source.document(i).tolist() for i in range(len(documents))] == documents
    everything = [token for document in documents for token in document]
    assert source.tokens(0, source.num_tokens).tolist() == everything


def test_a_source_may_be_empty() -> None:
    source = TokenArrays.of_documents([])
    assert source.num_documents == source.num_tokens == len(source.lengths) == 0
    assert source.tokens(0, 10).dtype == np.int32
