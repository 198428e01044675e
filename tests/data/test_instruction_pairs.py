import json
from pathlib import Path

import pytest

from pharos.core import CorpusError
from pharos.data.instruction_pairs import PairConfig, instruction_records, write_instruction_pairs
from pharos.data.instruction_pairs import PairReport as Report
from pharos.data.parsing import parse

MANUAL = """# Lighthouse manual

This manual is for keepers. It was written in 1902, and it has been kept up to date ever since.

## Lighting the lamp

Fill the tank with oil before dusk, and trim the wick. Light it with a long match.
Close the lantern at once, since wind puts the flame out.

```
lamp --light
```

## The lens

A Fresnel lens is a lens of many rings, thinner than one piece of glass would be. It gathers
the light of the lamp into beams that are seen from twenty miles away.
It is cleaned each morning.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "manual.md").write_text(MANUAL)
    (tmp_path / "copy.md").write_text(MANUAL)
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    return tmp_path


def test_headings_terms_and_passages_become_questions_answered_word_for_word(folder: Path) -> None:
    report = Report()
    records = list(instruction_records([folder / "manual.md"], PairConfig(), report))
    asked = {r["messages"][0]["content"]: r["messages"][1]["content"] for r in records}
    lit = asked["What does Lighthouse manual say about Lighting the lamp?"]
    assert lit.startswith("Fill the tank") and lit.endswith("puts the flame out.")
    assert asked["What is a Fresnel lens?"].startswith("A Fresnel lens is a lens of many rings")
    passage = "Continue this passage of Lighthouse manual: This manual is for keepers."
    assert asked[passage].startswith("It was written in 1902")
    assert not any("lamp --light" in text for pair in asked.items() for text in pair)
    text = parse(folder / "manual.md", source="manual").text
    for record in records:
        answer = record["messages"][1]["content"]
        assert text[record["start"] : record["end"]] == answer


def test_what_is_there_twice_is_asked_once_and_what_is_broken_is_told(folder: Path) -> None:
    out = folder / "out" / "pairs.jsonl"
    report = write_instruction_pairs([folder], out, PairConfig())
    assert (report.documents, report.duplicates) == (2, 1)
    assert [Path(source).name for source, _ in report.failures] == ["broken.pdf"]
    questions = [json.loads(line)["messages"][0]["content"] for line in out.open()]
    assert len(questions) == len(set(questions)) == sum(report.pairs.values())
    assert "1 duplicates" in str(report) and "1 files could not be read" in str(report)


def test_answers_are_whole_sentences_of_at_most_so_many_characters(folder: Path) -> None:
    config = PairConfig(max_characters=90, continuations=2)
    records = list(instruction_records([folder / "manual.md"], config, Report()))
    answers = [record["messages"][1]["content"] for record in records]
    assert answers and all(40 <= len(answer) <= 90 and answer[-1] == "." for answer in answers)
    assert sum(record["kind"] == "continuation" for record in records) == 2


def test_documents_without_prose_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    (tmp_path / "numbers.txt").write_text("1 2 3\n4 5 6\n")
    with pytest.raises(CorpusError, match="no instruction pair was found in 1 documents"):
        write_instruction_pairs([tmp_path], tmp_path / "out" / "pairs.jsonl", PairConfig())
    assert list((tmp_path / "out").iterdir()) == []


def test_settings_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="max_characters is 10; an answer has at least 40"):
        PairConfig(max_characters=10)
    with pytest.raises(ValueError, match="continuations is -1"):
        PairConfig(continuations=-1)
