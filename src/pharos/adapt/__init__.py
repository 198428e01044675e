"""Adapters: small trainable parts swapped into a model that does not know of them."""
