"""The README's recipe for another kind of file works as it stands."""

import re
import textwrap
from pathlib import Path

import pytest

from tandem_pl.datamodules.sources import file_rows
from tandem_pl.datamodules.sources.domains import open_source
from tandem_pl.errors import InputError

README = Path(__file__).parents[3] / "datamodules" / "sources" / "README.md"
SUBTITLES = (
    "1\n00:00:01,000 --> 00:00:02,000\nGood morning,\n1984\n\n"
    "2\n00:00:03,000 --> 00:00:04,000\né --> e\n"
)


def test_subtitles(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)\n *```", README.read_text(encoding="utf-8"), re.S)
    names = {"__name__": "subtitles", "__package__": file_rows.__package__}
    exec(textwrap.dedent(code), names)
    (tmp_path / "a.srt").write_text(SUBTITLES, encoding="utf-8")
    as_text = open_source("d", str(tmp_path)).digest(["text"])
    monkeypatch.setitem(file_rows.READERS, ".srt", names["read_subtitles"])
    assert open_source("d", str(tmp_path)).digest(["text"]) != as_text  # no cache of plain text
    (tmp_path / "b.srt").write_bytes(b"\xff")
    source = open_source("d", str(tmp_path), corrupt="skip")
    assert [row for _, row in source.rows(["text"])] == [{"text": "Good morning,\n1984\né --> e"}]
    assert source.skipped == 1
    with pytest.raises(InputError, match="has one column"):
        list(source.rows(["prompt", "response"]))
