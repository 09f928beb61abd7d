"""Names of files, and texts with byte order marks."""

import pytest

from tandem_pl.files import encoding_of, file_names, read_text

PLAIN = ["code", "web text", "Books", "c++", "v1.2", "a-b_c", "x" * 240]
AWKWARD = [
    *("中" * 30, "中" * 31, "é" * 200, "x" * 300, "x" * 299 + "y", "a/b", "a/B", "A/b", "..", "."),
    *("", " ", "...", "CON", "con", "Con", "nul", "COM1", "lpt9", "aux.txt", "PRN.a.b", "a\0b"),
    *("books", "BOOKS", "bOOks", "~", "-", "a\\b:c", "*?[]", "'\"<>|", "a\nb", "\ufeff", "🙂" * 60),
]


def test_plain_names_stay_as_they_are():
    assert file_names(PLAIN) == {name: name.replace("+", "%2B") for name in PLAIN}
    assert file_names(["né", "a/b"]) == {"né": "n%C3%A9", "a/b": "a%2Fb"}, "as in caches of before"


def test_every_name_is_a_file_of_its_own_on_any_system(tmp_path):
    found = file_names([*PLAIN, *AWKWARD])
    assert list(found) == [*PLAIN, *AWKWARD]
    assert len({name.lower() for name in found.values()}) == len(found)
    for name, file in found.items():
        (tmp_path / f"{file}.arrow").write_text(name)
        (tmp_path / "folders" / file).mkdir(parents=True)
    for name, file in found.items():
        assert (tmp_path / f"{file}.arrow").read_text() == name
        assert file.isascii()
        assert not set(file) & set('/\\:*?"<>|')
        assert file.split(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}
        assert file.strip(". ")


def test_a_name_has_the_same_file_whatever_comes_after_it():
    names = ["Books", "中" * 30, "CON"]
    first = file_names(names)
    assert {name: file_names([*names, "books", "con"])[name] for name in names} == first
    assert file_names(["books", "Books"])["Books"].startswith("Books-")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_texts_with_and_without_marks(encoding, tmp_path):
    (tmp_path / "a.txt").write_bytes("né\r\nx".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "né\nx"
    assert encoding_of("né".encode(encoding)) == encoding
    assert encoding_of(b"") == "utf-8"
