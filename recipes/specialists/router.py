"""The router's examples: CLINC150's intents with what is none of them, in-scope or not.

    python -m recipes.specialists.router [--data DIR] [--out DIR]

The 100 out-of-scope training queries are a class of their own. BANKING77 is read as it is.
"""

import argparse
import json
from collections.abc import Iterator

from recipes.specialists.squad import add_arguments, write_jsonl

OUT_OF_SCOPE = "oos"
SPLITS = {"train": "train", "validation": "val", "test": "test"}


def records(raw: dict[str, list[list[str]]], split: str) -> Iterator[dict[str, str]]:
    for text, intent in raw[split] + raw[f"{OUT_OF_SCOPE}_{split}"]:
        yield {"text": text, "label": intent}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the router's examples.")
    add_arguments(parser)
    arguments = parser.parse_args()
    raw = json.loads((arguments.data / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    for name, split in SPLITS.items():
        write_jsonl(arguments.out / f"clinc150_{name}.jsonl", records(raw, split))


if __name__ == "__main__":
    main()
