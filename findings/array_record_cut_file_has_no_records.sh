#!/usr/bin/env bash
# array_record 0.8.6: a reader of a file that was cut, or that is not there, is made without an error and says that it has 0
# records, so that a loop over range(num_records()) ends at once, in silence. ok() alone tells.
# Seen: the constructor does not raise; num_records() is 0 of 100; ok() is False.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet array_record==0.8.6
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import os

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

folder = os.environ["FOLDER"]
whole, cut = os.path.join(folder, "whole"), os.path.join(folder, "cut")
writer = ArrayRecordWriter(whole, "group_size:1")
for number in range(100):
    writer.write(bytes([number]) * 500)
writer.close()
with open(whole, "rb") as file, open(cut, "wb") as copy:
    copy.write(file.read()[:-100])
found = {}
for name, path in (("whole", whole), ("cut", cut), ("missing", os.path.join(folder, "missing"))):
    reader = ArrayRecordReader(path)
    found[name] = (reader.num_records(), reader.ok())
print(f"array_record {importlib.metadata.version('array_record')}: (records, ok) {found}")
assert found == {"whole": (100, True), "cut": (0, False), "missing": (0, False)}, "no longer so"
PYTHON
