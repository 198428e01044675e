import signal

import pytest

from pharos.train import interruption
from pharos.train.interruption import Interruption

BOTH = pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_the_first_signal_asks(sent: signal.Signals) -> None:
    before = signal.getsignal(sent)
    with Interruption() as asked:
        assert not asked.is_asked
        signal.raise_signal(sent)
        assert asked.is_asked
    assert signal.getsignal(sent) is before


@BOTH
def test_a_signal_that_comes_twice_at_once_asks_once(sent: signal.Signals) -> None:
    with Interruption() as asked:
        for _ in range(2):
            signal.raise_signal(sent)
        assert asked.is_asked


def test_a_second_one_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "SAME_S", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Interruption():
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
