import json


def test_search_shows_the_best_passage_first(pharos, library, manuals) -> None:
    run = pharos("search", "full backup every Sunday", "--library", library, "-k", "1")
    assert run.code == 0
    assert run.out.startswith(" 1. Backing up")
    assert "keeps it for ninety days" in run.out


def test_explain_shows_what_a_score_is_made_of(pharos, library) -> None:
    plain = pharos("search", "backup", "--library", library)
    explained = pharos("search", "backup", "--library", library, "--explain")
    assert "cosine" not in plain.out
    assert "cosine" in explained.out
    assert "bm25" in explained.out


def test_json_carries_text_place_and_scores(pharos, library) -> None:
    found = json.loads(pharos("search", "backup", "--library", library, "--json").out)
    assert found["query"] == "backup"
    hit = found["hits"][0]
    assert hit["text"]
    assert hit["end"] - hit["start"] == len(hit["text"])
    assert hit["scores"]


def test_groups_and_filters_narrow_what_is_found(pharos, library) -> None:
    def sources(*options: str) -> set[str]:
        out = pharos("search", "harbour master", "--library", library, "--json", *options).out
        return {hit["document"].rpartition("/")[2] for hit in json.loads(out)["hits"]}

    assert "salaries.md" not in sources()
    assert sources("--group", "payroll") == {"salaries.md"}
    assert sources("--filter", "format=html") == {"hostile.html"}


def test_finding_nothing_is_said_on_stderr(pharos, library) -> None:
    run = pharos("search", "backup", "--library", library, "--filter", "format=none")
    assert (run.code, run.out) == (0, "")
    assert "nothing found" in run.err
