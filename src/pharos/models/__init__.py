"""One file per architecture, the loading of weights, and where a model's name leads.

Import what you need from its file; `resolve` does not import torch.
"""
