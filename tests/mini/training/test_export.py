"""Folders whose files are replaced whole."""

from synthgen.mini.training import export


def test_export_keeps_what_else_is_in_the_folder(tmp_path):
    folder = tmp_path / "sam"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    with export.replacing_files(folder) as partial:
        (partial / "part").mkdir()
        (partial / "part" / "weights").write_text("new")
        assert not (folder / "part").exists()
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / "part" / "weights").read_text() == "new"
    assert list(tmp_path.iterdir()) == [folder]
