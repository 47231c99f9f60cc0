#!/usr/bin/env bash
# array_record 0.8.6: one record read as a list of one number, read([i]), takes 5 to 20 times as long as the same record read
# as a range, read(i, i + 1): a list goes through the reader's thread pool, also with max_parallelism:0. Whoever takes records one
# by one, as map-style datasets do, pays for it.
# Seen: 18 to 81 us beside 4 us a record of 200 bytes, group size 1, two cores; the bytes are the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet array_record==0.8.6
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import os
import random
import statistics
import time

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

path = os.path.join(os.environ["FOLDER"], "data.array_record")
writer = ArrayRecordWriter(path, "group_size:1")
for number in range(5000):
    writer.write(number.to_bytes(8, "little") * 25)
writer.close()
reader = ArrayRecordReader(path, options="readahead_buffer_size:0,max_parallelism:0")
numbers = [random.Random(0).randrange(5000) for _ in range(1000)]


def us(read):
    began = time.perf_counter()
    for number in numbers:
        read(number)
    return (time.perf_counter() - began) / len(numbers) * 1e6


assert all(reader.read([number]) == reader.read(number, number + 1) for number in numbers)
turns = [(us(lambda number: reader.read([number])), us(lambda number: reader.read(number, number + 1))) for _ in range(5)]
listed, ranged = (statistics.median(each) for each in zip(*turns))
print(f"array_record {importlib.metadata.version('array_record')}: a list of one {listed:.0f} us, a range of one {ranged:.1f} us")
assert listed > 2 * ranged, "no longer so"
PYTHON
