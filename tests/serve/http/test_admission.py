import pytest

from pharos.serve.http.admission import Admission
from pharos.serve.http.errors import ApiError


def test_a_request_of_more_texts_than_may_wait_is_let_in_when_there_is_room() -> None:
    admission = Admission(max_pending=2)
    with admission.admitted(300):
        assert admission.num_pending == 300
        with pytest.raises(ApiError, match="300 requests run or wait"), admission.admitted(1):
            pass
    assert admission.num_pending == 0
