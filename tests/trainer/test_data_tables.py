"""Tables of files: their columns, and that nothing in them becomes something else in silence."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.tables import table
from trainer.errors import ConfigError

pyarrow = pytest.importorskip("pyarrow")

CITIES = 'city,rooms,rent\n"Bern, old town",3,1500.5\n"two\nlines",2,900\nÜri,1,700\n'


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_columns_are_numbers_whole_numbers_and_texts(tmp_path: Path) -> None:
    found = table(write(tmp_path / "a.csv", CITIES))
    assert list(found) == ["city", "rooms", "rent"]
    assert found["city"].tolist() == ["Bern, old town", "two\nlines", "Üri"]
    assert (found["rooms"].dtype, found["rooms"].tolist()) == (np.int64, [3, 2, 1])
    assert (found["rent"].dtype, found["rent"].tolist()) == (np.float64, [1500.5, 900.0, 700.0])


def test_a_byte_order_mark_and_gzip_change_nothing(tmp_path: Path) -> None:
    plain = table(write(tmp_path / "a.csv", CITIES))
    for file in (
        write(tmp_path / "b.csv", "\ufeff" + CITIES),
        write(tmp_path / "c.csv.gz", gzip.compress(CITIES.encode())),
    ):
        found = table(file)
        assert {name: column.tolist() for name, column in found.items()} == {
            name: column.tolist() for name, column in plain.items()
        }


def test_several_files_and_formats_are_one_table_in_the_order_of_their_names(tmp_path: Path) -> None:
    from pyarrow import feather, parquet

    write(tmp_path / "1.csv", "a,b\n1,x\n")
    write(tmp_path / "2.csv", "b,a\ny,2.5\n")
    parquet.write_table(pyarrow.table({"a": [3], "b": ["z"]}), tmp_path / "3.parquet")
    feather.write_feather(pyarrow.table({"a": [4.5], "b": ["w"]}), str(tmp_path / "4.arrow"))
    write(tmp_path / ".hidden", "no table")
    found = table(tmp_path)
    assert found["a"].tolist() == [1.0, 2.5, 3.0, 4.5]
    assert found["b"].tolist() == ["x", "y", "z", "w"]


def test_what_is_missing_is_filled_by_the_stated_rule_in_float64(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "a,b,c\n1000000.25,x,1\n,,\n1000000.75,z,3\n")
    found = table(file, missing={"a": "mean", "c": -1})
    assert found["a"].tolist() == [1000000.25, 1000000.5, 1000000.75]
    assert found["b"].tolist() == ["x", "", "z"]
    assert found["c"].tolist() == [1, -1, 3]


def test_types_say_what_values_do_not(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "id,zip,n\nA7,01234,1\n12,55555,2\n")
    found = table(file, types={"id": str, "zip": str, "n": float})
    assert (found["id"].tolist(), found["zip"].tolist()) == (["A7", "12"], ["01234", "55555"])
    assert found["n"].dtype == np.float64


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("a,b\n1,2\n3,4,5\n", {}, r"Row #3: Expected 2 columns, got 3"),
        ("a,b\n1,2\nx,4\n", {}, r"column 'a' of .*: record 2 holds 'x', which is no number"),
        ("a,b\n1,2\nx,4\n", {"types": {"a": float}}, r"record 2 holds 'x'"),
        ("a,b\nu,2\nx,4\n", {"types": {"a": float}}, r"record 1 holds 'u'"),
        ("a,b\n1,2\n3.5,4\n", {"types": {"a": int}}, r"column 'a' of .*: record 2 holds 3.5, which is no whole number"),
        ("a,b\n1,2\n3,\n", {}, r"column 'b' of .*: record 2 has no value \(1 have none\)"),
        ("a,a\n1,2\n", {}, r"two columns named 'a'"),
        ("a,b\n", {}, r"has no record"),
        ("", {}, r"Empty CSV file"),
        (b"a,b\n1,x\n2,\xff\n", {}, r"column 'b' of .*: record 2 is no UTF-8 text"),
        ("a,day\n1,2020-01-01\n", {}, r"column 'day' of .* holds date"),
        ("a,b\n1,2\n", {"missing": {"c": 0}}, r"missing of a table names 'c'"),
        ("a,b\n,2\n", {"missing": {"a": "mean"}}, r"column 'a' has no value at all"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str | bytes, options: dict[str, Any], said: str) -> None:
    file = write(tmp_path / "a.csv", text)
    with pytest.raises(ConfigError, match=said) as raised:
        table(file, **options)
    assert "a.csv" in str(raised.value) or "column 'a' has no value" in str(raised.value)
    assert raised.value.remedy


def test_files_that_are_no_table_or_of_another_one_are_named(tmp_path: Path) -> None:
    one, other = write(tmp_path / "1.csv", "a\n1\n"), write(tmp_path / "2.csv", "b\n1\n")
    with pytest.raises(ConfigError, match=r"2\.csv and .*1\.csv have not the same columns: a, b"):
        table([one, other])
    with pytest.raises(ConfigError, match="text in one of"):
        table([one, write(tmp_path / "3.csv", "a\nx\n")])
    with pytest.raises(ConfigError, match="there is no file"):
        table(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match=r"4\.parquet cannot be read"):
        table(write(tmp_path / "4.parquet", "no parquet"))
    with pytest.raises(ConfigError, match="not on a local disk"):
        table("gs://bucket/a.csv")
