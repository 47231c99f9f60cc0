#!/usr/bin/env bash
# TensorFlow 2.21.0: a TFRecord file that ends within the 12 bytes before a record's data, as a writer or a copy that was ended
# hard leaves it, is read to there without an error: the rest is missing in silence. Cut within the data it raises DataLossError.
# Seen: cut after 1 to 11 bytes of the header of record 2: two records, no error; one byte into its data: DataLossError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tensorflow-cpu==2.21.0
FOLDER=$folder TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1 "$folder/venv/bin/python" - <<'PYTHON'
import os

import tensorflow as tf

path = os.path.join(os.environ["FOLDER"], "data.tfrecord")
with tf.io.TFRecordWriter(path) as writer:
    for number in range(4):
        writer.write(bytes([number]) * 100)
with open(path, "rb") as file:
    whole = file.read()
record = 12 + 100 + 4


def read(size):
    with open(path, "wb") as file:
        file.write(whole[:size])
    records = 0
    try:
        for _ in tf.data.TFRecordDataset(path):
            records += 1
    except tf.errors.DataLossError:
        return records, "DataLossError"
    return records, "no error"


within_header = {read(2 * record + size) for size in range(1, 12)}
within_data = read(2 * record + 13)
print(f"tensorflow {tf.__version__}: cut within a header {within_header}, within the data {within_data}")
assert within_header == {(2, "no error")}, "no longer so"
assert within_data == (2, "DataLossError"), "no longer so"
PYTHON
