import json

from pharos.cli import doctor


def test_all_is_well_here(pharos, tmp_path) -> None:
    run = pharos("doctor", "--library", tmp_path / "x.library")
    assert run.code == 0
    for name in ("python", "packages", "processor", "encoder", "specialists", "library", "disk"):
        assert f"ok    {name}: " in run.out


def test_json_says_whether_the_machine_is_healthy(pharos, tmp_path) -> None:
    found = json.loads(pharos("doctor", "--library", tmp_path, "--json").out)
    assert found["healthy"] is True
    assert all(check["ok"] for check in found["checks"])


def test_what_is_missing_comes_with_the_command_that_mends_it(pharos, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "runtime_requirements", lambda: ["torch", "no-such-package"])
    run = pharos("doctor")
    assert run.code == 1
    assert "no-such-package missing" in run.out
    assert "pip install --force-reinstall no-such-package" in run.out


def test_a_file_where_the_library_should_be_is_wrong(tmp_path) -> None:
    place = tmp_path / "x.library"
    place.touch()
    assert not doctor.check_writable(place).ok


def test_a_folder_that_is_not_there_yet_is_judged_by_the_nearest_that_is(tmp_path) -> None:
    assert doctor.nearest_existing(tmp_path / "a" / "b") == tmp_path
    assert doctor.check_writable(tmp_path / "a" / "b").ok
