"""Small encoders: so far the one that turns sentences into vectors."""

from pharos.specialists.embed import Precision, SentenceEncoder, load_encoder

__all__ = ["Precision", "SentenceEncoder", "load_encoder"]
