"""Tables of files as columns, by the package pyarrow: CSV, Parquet, Arrow. They are read whole, and train as arrays do.

What would train something else in silence is an error here that names file, record and column: a row with a field too many, a
word among numbers, a number that is missing.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.packages import needed
from trainer.errors import ConfigError

Columns = dict[str, np.ndarray]
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_SHOWN_CHARS = 60


def table(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    types: Mapping[str, type] | None = None,
    missing: Mapping[str, float | str] | None = None,
) -> Columns:
    """The columns of one or several files, by name, each an array of one value for every record: numbers float64, whole numbers
    int64, texts as str objects, true and false as bool. Records are those of the first file, then those of the next.

    Args:
        paths: files, or a folder, whose files are taken by name: .csv and .csv.gz (with a line of names; a comma, quotes as in
            RFC 4180), .parquet, .arrow and .feather.
        types: of columns whose type the values do not tell: float, int or str. A column of numbers and other words is an error
            without.
        missing: by column, what stands for a value that is not there: a number, or "mean", that of the others, in float64. A
            number that is missing is an error without. Of texts a missing one is empty.

    Raises:
        ConfigError: a file that cannot be read, files with different columns, a value that does not fit; pyarrow is missing.
    """
    types, missing = dict(types or {}), dict(missing or {})
    files = _files(paths)
    parts = [_columns(file, types) for file in files]
    names = list(parts[0])
    for file, part in zip(files, parts, strict=True):
        if set(part) != set(names):
            other = ", ".join(sorted(set(part) ^ set(names)))
            raise ConfigError(
                f"{file} and {files[0]} have not the same columns: {other}", remedy="Give files of one kind of table."
            )
    for given, what in ((types, "types"), (missing, "missing")):
        if unknown := sorted(set(given) - set(names)):
            raise ConfigError(
                f"{what} of a table names {unknown[0]!r}, which is no column of {files[0]}",
                remedy=f"Its columns: {', '.join(names)}.",
            )
    return {
        name: _joined(name, [(file, part[name]) for file, part in zip(files, parts, strict=True)], missing)
        for name in names
    }


def _files(paths: Any) -> list[Path]:
    alone = isinstance(paths, str | os.PathLike)
    found = [_local(paths)] if alone else [_local(each) for each in paths]
    if alone and found[0].is_dir():
        found = sorted(each for each in found[0].iterdir() if not each.name.startswith("."))
    if not found:
        raise ConfigError(
            f"no file of a table in {paths}", remedy="Name a CSV, Parquet or Arrow file, or a folder of them."
        )
    for file in found:
        if not file.is_file():
            raise ConfigError(
                f"there is no file {file}", remedy="Correct the path; it is relative to the working directory."
            )
    return found


def _local(path: str | os.PathLike[str]) -> Path:
    if "://" in os.fspath(path):
        raise ConfigError(f"{os.fspath(path)} is not on a local disk", remedy="Mount the bucket, or copy the file.")
    return Path(path)


def _columns(file: Path, types: Mapping[str, type]) -> dict[str, Any]:
    """pyarrow's arrays by name, numbers, texts and booleans."""
    arrow = needed("pyarrow", file)
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            found = pyarrow.parquet.read_table(file)
        elif file.suffix in (".arrow", ".feather"):
            import pyarrow.feather

            found = pyarrow.feather.read_table(file)
        else:
            found = _of_csv(arrow, file, types)
    except (arrow.ArrowException, OSError) as error:
        raise ConfigError(
            f"{file} cannot be read as a table: {str(error).splitlines()[0]}", remedy="Repair it, or leave it out."
        ) from error
    names = found.column_names
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{file} has two columns named {double[0]!r}", remedy="Give each a name of its own.")
    if not found.num_rows:
        raise ConfigError(f"{file} has no record", remedy="Leave it out.")
    return {name: _plain(arrow, file, name, found[name], types.get(name)) for name in names}


def _of_csv(arrow: Any, file: Path, types: Mapping[str, type]) -> Any:
    from pyarrow import csv

    texts = {name: arrow.string() for name, type_ in types.items() if type_ is str}
    convert = csv.ConvertOptions(column_types=texts)
    parse = csv.ParseOptions(newlines_in_values=True)
    try:
        return csv.read_csv(file, convert_options=convert, parse_options=parse)
    except arrow.ArrowInvalid:
        # Again in one thread, which alone knows the number of the row, counted from 1 and with the line of names.
        return csv.read_csv(file, csv.ReadOptions(use_threads=False), convert_options=convert, parse_options=parse)


def _plain(arrow: Any, file: Path, name: str, column: Any, wanted: type | None) -> Any:
    kinds = arrow.types
    column = column.combine_chunks()
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kinds.is_decimal(column.type):
        column = column.cast(arrow.float64())
    if kinds.is_null(column.type):
        column = column.cast(arrow.string() if wanted is str else arrow.float64())
    if kinds.is_binary(column.type) or kinds.is_large_binary(column.type):
        at = next(
            number for number, value in enumerate(column.to_pylist()) if value is not None and not _is_utf8(value)
        )
        raise ConfigError(
            f"column {name!r} of {file}: record {at + 1} is no UTF-8 text", remedy="Write the file as UTF-8."
        )
    if kinds.is_string(column.type) or kinds.is_large_string(column.type):
        return column if wanted is str else _told_from_numbers(arrow, file, name, column, wanted)
    if not (kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_boolean(column.type)):
        raise ConfigError(
            f"column {name!r} of {file} holds {column.type}: no numbers and no texts",
            remedy=f"Take it as text, types={{{name!r}: str}}, or leave it out of the file.",
        )
    if wanted is str:
        return column.cast(arrow.string())
    if wanted is float:
        return column.cast(arrow.float64())
    return _whole(arrow, file, name, column) if wanted is int and kinds.is_floating(column.type) else column


def _whole(arrow: Any, file: Path, name: str, column: Any) -> Any:
    try:
        return column.cast(arrow.int64())
    except arrow.ArrowInvalid:
        values = enumerate(column.to_pylist())
        wrong = (
            (at, each) for at, each in values if each is not None and not (each.is_integer() and abs(each) < 2**63)
        )
        at, value = next(wrong)
        raise ConfigError(
            f"column {name!r} of {file}: record {at + 1} holds {value}, which is no whole number",
            remedy=f"Say that it holds fractions: types={{{name!r}: float}}.",
        ) from None


def _told_from_numbers(arrow: Any, file: Path, name: str, column: Any, wanted: type | None) -> Any:
    """A column of texts none of which is a number."""
    from pyarrow import compute

    numbers = compute.fill_null(compute.match_substring_regex(column, _NUMBER), True)
    if wanted is None and not compute.any(compute.and_(numbers, compute.is_valid(column))).as_py():
        return column
    others = compute.invert(numbers)
    if not compute.any(others).as_py():
        return column.cast(arrow.float64() if wanted is float else arrow.int64())
    at = compute.index(others, True).as_py()
    raise ConfigError(
        f"column {name!r} of {file}: record {at + 1} holds {column[at].as_py()[:_SHOWN_CHARS]!r}, which is no number, and others "
        "are numbers",
        remedy=f"Correct it; or, where these are texts: types={{{name!r}: str}}.",
    )


def _joined(name: str, parts: list[tuple[Path, Any]], missing: Mapping[str, float | str]) -> np.ndarray:
    texts = [str(part.type) in ("string", "large_string") for _, part in parts]
    if len(set(texts)) > 1:
        file = parts[texts.index(not texts[0])][0]
        raise ConfigError(
            f"column {name!r} is text in one of {parts[0][0]} and {file}, and numbers in the other",
            remedy=f"Say what it is: types={{{name!r}: str}}.",
        )
    if texts[0]:
        empty = str(missing.get(name, ""))
        values = [empty if value is None else value for _, part in parts for value in part.to_pylist()]
        array = np.empty(len(values), object)
        array[:] = values
        return array
    filled = any(part.null_count for _, part in parts)
    if filled and name not in missing:
        file, part = next(each for each in parts if each[1].null_count)
        at = int(np.flatnonzero(~part.is_valid().to_numpy(zero_copy_only=False))[0])
        raise ConfigError(
            f"column {name!r} of {file}: record {at + 1} has no value ({part.null_count} have none)",
            remedy=f'Say what stands for it: missing={{{name!r}: 0}}, or missing={{{name!r}: "mean"}}.',
        )
    arrays = [part.to_numpy(zero_copy_only=False) for _, part in parts]
    if not filled:
        kinds = {array.dtype.kind for array in arrays}
        wide = np.float64 if "f" in kinds else np.int64
        return np.concatenate([array if kinds == {"b"} else array.astype(wide) for array in arrays])
    joined = np.concatenate([array.astype(np.float64) for array in arrays])
    absent = np.concatenate([~part.is_valid().to_numpy(zero_copy_only=False) for _, part in parts])
    if absent.all() and missing[name] == "mean":
        raise ConfigError(f"column {name!r} has no value at all, and so no mean", remedy="Leave the column out.")
    joined[absent] = joined[~absent].mean() if missing[name] == "mean" else float(missing[name])
    return joined


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
