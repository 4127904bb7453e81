"""The groups of choices: shipped, of the user's own, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnbench.config.groups import Groups, conf_dir
from cnnbench.config.run_config import GROUPS, PRESET_GROUPS
from cnnbench.errors import UsageError


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tiny.yaml").write_text("# mine\nname: lenet\nactivation: tanh\n")
    return tmp_path


def test_choices_of_the_users_own_stand_among_the_shipped_ones(own: Path) -> None:
    groups = Groups(own)
    assert groups.choices("model")["tiny"] == "mine"
    assert list(groups.choices("model")) == sorted({"tiny", *Groups().choices("model")})
    assert groups.choices("optimizer") == Groups().choices("optimizer")
    assert groups.file("model", "tiny") == own / "model" / "tiny.yaml"
    assert groups.file("model", "lenet") == conf_dir() / "model" / "lenet.yaml"


def test_a_shipped_choice_is_not_replaced_in_silence(own: Path) -> None:
    (own / "optimizer").mkdir()
    (own / "optimizer" / "adamw.yaml").write_text("# mine\nname: sgd\n")
    with pytest.raises(UsageError, match="optimizer=adamw is a shipped choice; rename it"):
        Groups(own)


@pytest.mark.parametrize("name", ["small.yml", "small.YML", "small.YAML", "mine/small.yml"])
def test_a_file_that_would_not_be_read_is_named(own: Path, name: str) -> None:
    file = own / "model" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("# mine\nname: lenet\n")
    with pytest.raises(UsageError, match=rf"{file}: rename it to small\.yaml"):
        Groups(own)


def test_the_lock_of_an_editor_is_no_file(own: Path) -> None:
    (own / "model" / ".#small.yml").symlink_to("me@here.1234")
    assert "tiny" in Groups(own).choices("model")


def test_a_directory_that_holds_no_groups(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no folder of model, data"):
        Groups(tmp_path)
    with pytest.raises(UsageError, match="there is no such directory"):
        Groups(tmp_path / "nowhere")


def test_every_group_of_conf_is_known() -> None:
    folders = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    assert folders <= {*GROUPS, *PRESET_GROUPS}
    with pytest.raises(UsageError, match="did you mean 'model'"):
        Groups().choices("modle")


def test_yaml_that_is_not_utf8_is_named(own: Path) -> None:
    file = own / "model" / "latin.yaml"
    file.write_bytes("# caf\u00e9\nname: lenet\n".encode("latin-1"))
    with pytest.raises(UsageError, match=rf"{file}: is not UTF-8, as YAML has to be"):
        Groups(own)


def test_the_mark_before_utf8_hides_no_description(own: Path) -> None:
    (own / "model" / "marked.yaml").write_text("# mine too\nname: lenet\n", "utf-8-sig")
    assert Groups(own).choices("model")["marked"] == "mine too"
