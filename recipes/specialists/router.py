"""The router's examples: CLINC150's intents with what is none of them, in-scope or not.

    python -m recipes.specialists.router [--data DIR] [--out DIR]

The 100 out-of-scope training queries are a class of their own; `clinc150_in_scope_*` are without
any. BANKING77 is read as it is.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence

from recipes.specialists.squad import add_arguments, write_jsonl

OUT_OF_SCOPE = "oos"
SPLITS = {"train": "train", "validation": "val", "test": "test"}


def records(examples: Iterable[Sequence[str]]) -> Iterator[dict[str, str]]:
    for text, intent in examples:
        yield {"text": text, "label": intent}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the router's examples.")
    add_arguments(parser)
    arguments = parser.parse_args()
    raw = json.loads((arguments.data / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    for name, split in SPLITS.items():
        in_scope, others = raw[split], raw[f"{OUT_OF_SCOPE}_{split}"]
        write_jsonl(arguments.out / f"clinc150_{name}.jsonl", records(in_scope + others))
        write_jsonl(arguments.out / f"clinc150_in_scope_{name}.jsonl", records(in_scope))


if __name__ == "__main__":
    main()
