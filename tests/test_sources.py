"""Which files of a folder are trained on, which are validated on, and which are left out and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.text.reading import CorpusError
from train.text.sources import held_out_files, listed, sources


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("text\nA story.\n", encoding="utf-8")


def refused(*paths: str, valid: str | None = None) -> str:
    with pytest.raises(CorpusError) as error:
        sources([Path(path) for path in paths], Path(valid) if valid else None)
    return str(error.value)


@pytest.mark.parametrize(
    ("names", "train", "valid", "skipped"),
    [
        (["train.txt", "valid.txt"], ["train.txt"], ["valid.txt"], []),
        (["a.txt", "b.TXT"], ["a.txt", "b.TXT"], [], []),
        (
            ["train-00000-of-00002.csv", "train-00001-of-00002.csv", "validation-00000-of-00001.csv"],
            ["train-00000-of-00002.csv", "train-00001-of-00002.csv"],
            ["validation-00000-of-00001.csv"],
            [],
        ),
        (["TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"], [0], [1], []),
        (["train.jsonl", "Test.JSONL"], ["train.jsonl"], ["Test.JSONL"], []),
        (["dev.txt", "test.txt", "train.txt"], ["train.txt"], ["dev.txt"], ["test.txt"]),
        (["data/train/1.txt", "data/val/1.txt"], ["data/train/1.txt"], ["data/val/1.txt"], []),
        (["my_val.txt", "my_train.txt"], ["my_train.txt"], ["my_val.txt"], []),
        (["a.txt", "ValidationSet.txt"], ["a.txt"], ["ValidationSet.txt"], []),
        (["a.txt", "validate.txt", "my-valid-clean.txt"], [0], [1, 2], []),
        (["a.txt", "held-out.txt", "holdout.txt"], [0], [1, 2], []),
        (["TestSet.csv", "testament.txt"], ["testament.txt"], ["TestSet.csv"], []),
        (["test.txt"], ["test.txt"], [], []),  # all the text there is
        (["invalid.txt", "evaluation of a test case.txt", "z.txt"], [0, 1, 2], [], []),
    ],
)
def test_names_say_what_a_file_is_for(
    here: Path, names: list[str], train: list, valid: list, skipped: list[str]
) -> None:
    files(*(f"corpus/{name}" for name in names))
    found = sources([Path("corpus")])
    expected = [sorted(f"corpus/{names[f] if isinstance(f, int) else f}" for f in part) for part in (train, valid)]
    assert [list(map(str, found.train)), list(map(str, found.valid))] == expected
    assert found.skipped == [f"{name} (not trained on: text for validation or tests)" for name in skipped]
    assert held_out_files(Path("corpus")) == (found.valid or found.train)


def test_what_is_no_text_is_named(here: Path) -> None:
    files("corpus/a.txt", "corpus/README.txt", "corpus/LICENSE.md", "corpus/deep/notes.md", "corpus/deep/b.csv")
    files("corpus/.hidden.txt", "corpus/.git/c.txt", "elsewhere/d.txt")
    Path("corpus/table.csv").write_text("id,name\n1,x\n")
    Path("corpus/binary.csv").write_bytes(b"\xff\xfe\xff")
    Path("corpus/link").symlink_to("../elsewhere", target_is_directory=True)
    Path("corpus/gone.txt").symlink_to("nowhere.txt")
    found = sources([Path("corpus")])
    assert [str(path) for path in found.train] == ["corpus/a.txt", "corpus/deep/b.csv"]
    assert found.skipped == [
        "LICENSE.md",
        "README.txt",
        "binary.csv (not UTF-8)",
        "deep/notes.md",
        "gone.txt",
        "link (a link to a folder)",
        "table.csv (no column `text`)",
    ]
    files("about/README.txt", "about/story.md")
    kinds = ".txt, .jsonl, .csv or .parquet"
    assert refused("about") == f"about holds no {kinds} file; it holds README.txt, story.md"
    assert [str(path) for path in sources([Path("about/README.txt")]).train] == ["about/README.txt"]
    assert listed([str(i) for i in range(1_015)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 1,003 more"


def test_a_given_validation_text_replaces_the_named_ones(here: Path) -> None:
    files("corpus/train.txt", "corpus/valid.txt", "mine.txt", "corpus/more.txt")
    found = sources([Path("corpus")], Path("mine.txt"))
    assert [str(path) for path in found.train] == ["corpus/more.txt", "corpus/train.txt"]
    assert [str(path) for path in found.valid] == ["mine.txt"]
    assert found.skipped == ["valid.txt (not trained on: text for validation or tests)"]
    found = sources([Path("corpus")], Path("corpus/more.txt"))  # by no name of its own
    assert [str(path) for path in found.train] == ["corpus/train.txt"]


def test_each_file_is_read_once(here: Path) -> None:
    files("corpus/a.txt", "corpus/b.txt")
    Path("c.txt").symlink_to("corpus/a.txt")
    found = sources([Path("corpus/b.txt"), Path("corpus"), Path("c.txt"), Path("corpus/../corpus/b.txt")])
    assert [str(path) for path in found.train] == ["corpus/b.txt", "corpus/a.txt"]


def test_a_text_is_not_validated_on_itself(here: Path) -> None:
    files("a.txt")
    Path("b.txt").symlink_to("a.txt")
    for valid in ("a.txt", "./a.txt", "b.txt"):
        assert refused("a.txt", valid=valid) == f"{Path(valid)} is the validation text: choose another text to train on"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_a_pointer_of_git_lfs_is_no_text(here: Path, name: str) -> None:
    Path(name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    Path("folder").mkdir()
    Path("folder", name).write_text(Path(name).read_text())
    files("folder/b.txt")
    for path, pointer in ((name, name), ("folder", f"folder/{name}")):
        assert refused(path) == f"{pointer} is a Git LFS pointer; fetch the file itself with: git lfs pull"
