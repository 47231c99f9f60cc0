"""Records of TFRecord and ArrayRecord files by number: what TensorFlow reads, and an error where it is silent."""

import gzip
import os
import runpy
import struct
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from trainer.data import records
from trainer.data.examples import Examples
from trainer.data.records import arrayrecords, tfrecords
from trainer.errors import ConfigError
from trainer.tasks.digits import Digits

pytestmark = pytest.mark.slow

CONTENTS = [b"", b"a", b"ends in zeros\0\0", bytes(range(256)), b"x" * 70_000, "ä".encode()]


def write(path: Path, contents: Iterable[bytes]) -> Path:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in contents:
            writer.write(content)
    return path


def array_record(path: Path, contents: Iterable[bytes], options: str = "group_size:1") -> Path:
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), options)
    for content in contents:
        writer.write(content)
    writer.close()
    return path


def read(examples: Examples, numbers: Iterable[int], size: int = 4) -> list[Any]:
    """The examples of these numbers, in one batch of each `size`."""
    wanted = np.array(list(numbers), np.int64)
    parts = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    batches = examples.read([(part, np.zeros((len(part), 2), np.int64)) for part in parts], size, "train_data")
    return [example for batch in batches for example in batch]


def masked(data: bytes) -> bytes:
    """The checksum as the description of the format has it."""
    value = google_crc32c.value(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def test_records_are_those_of_tensorflow(tmp_path: Path) -> None:
    for file in ("b", "a", "c"):
        write(tmp_path / f"{file}.tfrecord", [file.encode() + content for content in CONTENTS])
    examples = tfrecords(tmp_path)
    dataset = tf.data.TFRecordDataset([str(tmp_path / f"{file}.tfrecord") for file in "abc"])
    assert read(examples, range(len(examples))) == list(dataset.as_numpy_iterator())


def test_any_record_is_read_by_its_number(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(0, 200, 500)
    contents = [b"%d" % number + bytes(length) for number, length in enumerate(lengths.tolist())]
    for part in range(5):
        write(tmp_path / f"{part}.tfrecord", contents[100 * part : 100 * part + 100])
    order = np.random.default_rng(1).permutation(500)
    assert read(tfrecords(tmp_path), order, size=64) == [contents[number] for number in order]


def test_many_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "OPEN_MAX", 3)
    contents = [b"%d" % number for number in range(40)]
    for number, content in enumerate(contents):
        write(tmp_path / f"{number:02}", [content])
    before = len(os.listdir("/proc/self/fd"))
    examples = tfrecords(tmp_path)
    assert read(examples, [*range(40), *range(39, -1, -1)], size=8) == contents + contents[::-1]
    assert len(os.listdir("/proc/self/fd")) <= before + 10


def test_parse_makes_examples(tmp_path: Path) -> None:
    def encoded(number: int) -> bytes:
        feature = {"x": tf.train.Feature(float_list=tf.train.FloatList(value=[number, number / 2]))}
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    def parse(record: Any) -> Any:
        return tf.io.parse_single_example(record, {"x": tf.io.FixedLenFeature([2], tf.float32)})["x"]

    path = write(tmp_path / "numbers", map(encoded, range(10)))
    np.testing.assert_array_equal(read(tfrecords(path, parse), [7, 3]), [[7, 3.5], [3, 1.5]])
    doubled = tfrecords(path, parse).map(lambda x: 2 * x)
    np.testing.assert_array_equal(read(doubled, [7]), [[14, 7]])


def test_files_are_found_and_stand_in_the_byte_order_of_their_names(tmp_path: Path) -> None:
    for name in ("a10", "a9", "B1", ".hidden", "ä"):
        write(tmp_path / name, [name.encode()])
    (tmp_path / "folder").mkdir()
    names = [b"B1", b"a10", b"a9", "ä".encode()]
    assert read(tfrecords(tmp_path), range(4)) == names
    assert read(tfrecords(str(tmp_path / "a*")), range(2)) == names[1:3]
    assert read(tfrecords([tmp_path / "a9", str(tmp_path / "B1"), tmp_path / "a*"]), range(3)) == names[:3]
    assert len(tfrecords(tmp_path / "a9")) == 1


def test_a_record_is_called_by_its_file_and_its_number_there(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, [b"1", b"2"] if name != "1-empty" else []) for name in ("0", "1-empty", "2")]
    examples = tfrecords(paths)
    assert [examples.where(number) for number in (0, 1, 2, 3)] == [
        f"record {number} of {tmp_path / name}" for name, number in (("0", 0), ("0", 1), ("2", 0), ("2", 1))
    ]
    with pytest.raises(IndexError):
        examples.where(4)


def test_empty_files_have_no_records(tmp_path: Path) -> None:
    empty, one = write(tmp_path / "a", []), write(tmp_path / "b", [b"1"])
    assert read(tfrecords([empty, one, write(tmp_path / "c", [])]), [0]) == [b"1"]
    with pytest.raises(ConfigError, match=f"no record in {empty}"):
        tfrecords(empty)


@pytest.mark.parametrize(
    "named, said",
    [
        ("nothing-here", "cannot be read: No such file"),
        ("*.nothing", "no file of records at"),
        ("", "no file of records at"),
        ([], "no file of records is named"),
        ("gs://bucket/a.tfrecord", "not on a local disk"),
    ],
)
def test_no_file_is_an_error(tmp_path: Path, named: Any, said: str) -> None:
    where = named if "://" in named or named == [] else tmp_path / named
    with pytest.raises(ConfigError, match=said) as caught:
        tfrecords(str(where) if "://" in named else where)
    assert caught.value.remedy


def test_a_file_cut_anywhere_but_between_records_is_an_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", [b"12345", b"", b"123"]).read_bytes()
    ends = [0, 21, 37, 56]
    cut = tmp_path / "cut"
    for size in range(1, len(whole)):
        cut.write_bytes(whole[:size])
        if size in ends:
            assert len(tfrecords(cut)) == ends.index(size)
            continue
        record = sum(end <= size for end in ends) - 1
        within = "header" if size - ends[record] < 12 else "data"
        with pytest.raises(ConfigError, match=f"record {record} of {cut} is cut within its {within}") as caught:
            tfrecords(cut)
        assert caught.value.remedy


@pytest.mark.parametrize("byte", range(12))
@pytest.mark.parametrize("record", [0, 1, 2])
def test_a_wrong_length_is_found_by_its_checksum(tmp_path: Path, record: int, byte: int) -> None:
    path = write(tmp_path / "wrong", [b"12345"] * 4)
    content = bytearray(path.read_bytes())
    content[21 * record + byte] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"record {record} of {path} has a wrong checksum of its length"):
        tfrecords(path)


def test_a_file_that_ends_in_zeros_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "zeros", [b"12345"] * 4)
    path.write_bytes(path.read_bytes() + bytes(1 << 22))
    with pytest.raises(ConfigError, match=r"record 4 of .* has a wrong checksum of its length"):
        tfrecords(path)


def test_damaged_data_is_an_error_that_names_the_record(tmp_path: Path) -> None:
    path = write(tmp_path / "damaged", [b"12345"] * 4)
    content = bytearray(path.read_bytes())
    content[21 * 2 + 14] ^= 1
    path.write_bytes(content)
    examples = tfrecords(path)
    assert read(examples, [0, 1, 3]) == [b"12345"] * 3
    with pytest.raises(ConfigError, match=rf"train_data\(\): record 2 of {path} has a wrong checksum of its data"):
        read(examples, range(4))


def test_compressed_files_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", [b"12345" * 100] * 4).read_bytes()
    path = tmp_path / "compressed"
    for compress, kind in ((gzip.compress, "GZIP"), (zlib.compress, "ZLIB")):
        path.write_bytes(compress(whole))
        with pytest.raises(ConfigError, match=f"{path} is compressed by {kind.lower()}") as caught:
            tfrecords(path)
        assert f'compression_type="{kind}"' in caught.value.remedy
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        writer.write(b"a")
    with pytest.raises(ConfigError, match="compressed by gzip"):
        tfrecords(path)


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"\x78\x9c"])
def test_a_length_that_looks_like_a_compressed_file_is_none(tmp_path: Path, magic: bytes) -> None:
    content = bytes(int.from_bytes(magic, "little"))
    path = write(tmp_path / "looks", [content])
    assert path.read_bytes().startswith(magic)
    assert read(tfrecords(path), [0]) == [content]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text('{"a": "some more text that is no header"}')
    with pytest.raises(ConfigError, match="no TFRecord file") as caught:
        tfrecords(tmp_path)
    assert "*.tfrecord" in caught.value.remedy


@pytest.mark.parametrize("change", ["rewritten", "grown", "replaced", "cut", "removed"])
def test_a_file_that_was_changed_is_an_error(tmp_path: Path, change: str) -> None:
    path, other = tmp_path / "data", tmp_path / "other"
    write(path, [b"12345"] * 4)
    os.utime(path, (1, 1))
    examples = tfrecords(path)
    assert read(examples, [1]) == [b"12345"]
    if change == "rewritten":
        write(path, [b"54321"] * 4)
    elif change == "grown":
        with path.open("ab") as file:
            file.write(write(other, [b"6"]).read_bytes())
        os.utime(path, (1, 1))
    elif change == "replaced":
        write(other, [b"54321"] * 4).replace(path)
    elif change == "cut":
        os.truncate(path, 30)
    else:
        path.unlink()
    with pytest.raises(ConfigError, match=f"record 1 of {path} cannot be read.*({path} was changed|No such file)"):
        read(examples, [1])


def test_a_long_row_of_records_has_the_index_that_its_headers_say(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(0, 9, 150_000).tolist()
    path = tmp_path / "long"
    headers = {length: struct.pack("<Q", length) for length in range(9)}
    framed = {
        length: header + masked(header) + bytes(length) + masked(bytes(length)) for length, header in headers.items()
    }
    path.write_bytes(b"".join(framed[length] for length in lengths))
    examples = tfrecords(path)
    assert len(examples) == len(lengths)
    wanted = [0, 65_535, 65_536, 131_072, 149_999]
    assert read(examples, wanted, size=5) == [bytes(lengths[number]) for number in wanted]


@pytest.mark.parametrize("options", ["group_size:1", "group_size:3", "group_size:1,uncompressed"])
def test_array_records_are_read_by_number(tmp_path: Path, options: str) -> None:
    for file in ("b", "a"):
        array_record(tmp_path / file, [file.encode() + content for content in CONTENTS], options)
    examples = arrayrecords(tmp_path, lambda record: (record, tf.strings.length(record)))
    expected = [file + content for file in (b"a", b"b") for content in CONTENTS]
    order = np.random.default_rng(0).permutation(12)
    numbers = np.zeros((12, 2), np.int64)
    ((found, lengths),) = examples.read([(order, numbers)], 12, "train_data")
    assert found.tolist() == [expected[number] for number in order]
    assert lengths.tolist() == [len(expected[number]) for number in order]
    assert examples.where(7) == f"record 1 of {tmp_path / 'b'}"


def test_an_array_record_file_that_is_cut_missing_or_changed_is_an_error(tmp_path: Path) -> None:
    path = array_record(tmp_path / "data", CONTENTS)
    whole = path.read_bytes()
    examples = arrayrecords(path)
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigError, match=f"{path} is no whole ArrayRecord file"):
            arrayrecords(path)
    with pytest.raises(ConfigError, match="was changed"):
        read(examples, [0])
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        arrayrecords(tmp_path / "missing")
    with pytest.raises(ConfigError, match="no record in"):
        arrayrecords(array_record(tmp_path / "empty", []))
    with pytest.raises(ConfigError, match="Read it with arrayrecords"):
        tfrecords(array_record(tmp_path / "other", CONTENTS))


def test_a_damaged_array_record_is_named(tmp_path: Path) -> None:
    path = array_record(tmp_path / "data", [np.random.default_rng(number).bytes(5000) for number in range(20)])
    content = bytearray(path.read_bytes())
    content[40_000] ^= 1
    path.write_bytes(content)
    examples = arrayrecords(path)
    with pytest.raises(ConfigError, match=rf"record \d+ of {path} is damaged"):
        read(examples, range(20))


def test_the_example_trains_on_the_digits_that_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples/records/task.py"))
    task = example["RecordedDigits"]()
    monkeypatch.setitem(task.train_data.__globals__, "FILE", str(tmp_path / "digits.tfrecord"))
    images, labels = Digits().train_data()
    for _ in ("written", "found"):
        examples = task.train_data()
        assert len(examples) == len(labels)
        order = np.random.default_rng(0).permutation(len(labels))[:64]
        ((x, y),) = examples.read([(order, np.zeros((64, 2), np.int64))], 64, "train_data")
        np.testing.assert_array_equal(x, images[order])
        np.testing.assert_array_equal(y, labels[order])
    example["write"](str(tmp_path / "digits.tfrecord"), images[:1], labels[:1])
    assert len(task.train_data()) == len(labels)


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_module", None)
    (tmp_path / "data").write_bytes(b"1")
    with pytest.raises(ConfigError, match="array_record") as caught:
        arrayrecords(tmp_path / "data")
    assert "pip install array_record" in caught.value.remedy
