"""Images of files: the pixels that PIL has, the numbers of their folders, and files that are none named."""

import contextlib
import importlib.util
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import Examples, images
from trainer.data.image_headers import ImageForm, form_of
from trainer.data.images import Images
from trainer.errors import ConfigError

Image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.slow

ONE = 1.001 / 255


def picture(height: int = 24, width: int = 31, seed: int = 0) -> Any:
    """Random colours, smooth as a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def read(data: Examples) -> Any:
    """All examples, as one batch."""
    count = len(data)
    (batch,) = data.read([(np.arange(count), np.zeros((count, 2), np.int64))], count, "train_data")
    return batch if isinstance(batch, tuple) else (batch,)


def one(path: Path, size: tuple[int, int] = (24, 31), **options: Any) -> np.ndarray:
    pixels: np.ndarray = read(images([path], size, **options))[0][0]
    return pixels


def by_pil(path: Path, mode: str = "RGB") -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert(mode), np.float32) / 255
    return pixels if pixels.ndim == 3 else pixels[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(
        ["dog/b.png", "cat/a10.jpg", "cat/a2.JPG", "dog/B.jpeg", ".hidden/a.jpg", "cat/.a.jpg"]
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(seed=number).save(tmp_path / name)
    return tmp_path


def test_classes_are_numbered_by_name_and_files_follow_by_name(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "cat/notes.txt").write_text("x")
    (folder / "dog/old").mkdir()
    (folder / "bird").mkdir()
    with caplog.at_level(logging.WARNING):
        data = images(folder, (24, 31))
    assert data.class_names == ["bird", "cat", "dog"]
    assert [Path(data.where(number)).relative_to(folder).as_posix() for number in range(len(data))] == [
        "cat/a10.jpg", "cat/a2.JPG", "dog/B.jpeg", "dog/b.png",
    ]  # fmt: skip
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["1 .txt, 1 folders", "bird"]
    pixels, labels = read(data)
    assert (pixels.shape, pixels.dtype, labels.dtype) == ((4, 24, 31, 3), np.float32, np.int32)
    assert labels.tolist() == [1, 1, 2, 2]
    for number in range(4):
        np.testing.assert_allclose(pixels[number], by_pil(Path(data.where(number))), rtol=0, atol=ONE)
    flipped = data.map(lambda image, label: (image[:, ::-1], label))
    assert isinstance(flipped, Images)
    assert flipped.class_names == data.class_names
    np.testing.assert_array_equal(read(flipped)[0], pixels[:, :, ::-1])


def test_a_folder_of_another_file_system_is_listed_the_same_way(folder: Path) -> None:
    for path in folder.glob("*/*"):
        away = f"ram://pictures/{path.relative_to(folder)}"
        tf.io.gfile.makedirs(away.rsplit("/", 1)[0])
        tf.io.gfile.copy(path, away, overwrite=True)
    here, there = images(folder, (8, 8)), images("ram://pictures", (8, 8))
    assert there.class_names == here.class_names
    assert there.where(1) == "ram://pictures/cat/a2.JPG"
    for one_part, other in zip(read(here), read(there), strict=True):
        np.testing.assert_array_equal(one_part, other)
    with pytest.raises(ConfigError, match="no class folder in ram://nothing"):
        images("ram://nothing", (8, 8))


@pytest.mark.parametrize(
    ("labels", "dtype"), [([1, 0], np.int32), (np.array([0.5, 2]), np.float32), (np.eye(2), np.float32)]
)
def test_a_list_of_files_has_the_labels_that_are_given(folder: Path, labels: Any, dtype: Any) -> None:
    paths = [folder / "dog/b.png", str(folder / "cat/a2.JPG")]
    _, found = read(images(paths, (8, 8), labels=labels))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, labels)
    assert len(read(images(paths, (8, 8)))) == 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_form_has_the_pixels_of_pil(tmp_path: Path, channels: int) -> None:
    forms = {
        "png": ["RGB", "L", "P", "RGBA", "LA", "1"], "gif": ["RGB", "L", "P"], "bmp": ["RGB", "L"],
        "webp": ["RGB", "L", "RGBA"], "jpg": ["RGB", "L", "CMYK"],
    }  # fmt: skip
    if not hasattr(tf.io, "decode_webp"):
        del forms["webp"]
    paths = [tmp_path / f"{mode}.{form}" for form, modes in forms.items() for mode in modes]
    for path in paths:
        colours = picture()
        if path.stem in ("RGBA", "LA"):
            colours.putalpha(picture(seed=1).convert("L"))
        colours.convert(path.stem).save(path, **({"lossless": True, "exact": True} if path.suffix == ".webp" else {}))
    (pixels,) = read(images(paths, (24, 31), channels=channels))
    for path, found in zip(paths, pixels, strict=True):
        expected = by_pil(path, {1: "L", 3: "RGB", 4: "RGBA"}[channels])
        np.testing.assert_allclose(found, expected, rtol=0, atol=ONE, err_msg=path.name)


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (24, 31), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(one(tmp_path / "deep.png", channels=1)[..., 0], deep / 65535, rtol=0, atol=1e-6)


def test_a_bmp_whose_colours_tensorflow_would_take_for_greys_is_refused(tmp_path: Path) -> None:
    for mode in ("P", "1"):
        picture().convert(mode).save(tmp_path / "a.bmp")
        with pytest.raises(ConfigError, match=r"a\.bmp cannot be read: a BMP with a palette .* Make it a PNG"):
            one(tmp_path / "a.bmp")


def test_a_smaller_image_is_that_of_pil(tmp_path: Path) -> None:
    for form in ("jpg", "png"):
        path = tmp_path / f"a.{form}"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
        smaller = Image.open(path).resize((40, 32), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(one(path, (32, 40)), np.asarray(smaller) / 255, rtol=0, atol=2 * ONE)
        cut = Image.open(path).crop((15, 0, 105, 90)).resize((30, 30), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(one(path, (30, 30), crop=True), np.asarray(cut) / 255, rtol=0, atol=2 * ONE)
        for method in ("bicubic", "lanczos3", "nearest", "area"):
            pixels = one(path, (200, 50), resize=method)
            assert pixels.min() >= 0
            assert 0.9 < pixels.max() <= 1


def chunk(name: bytes, contents: bytes) -> bytes:
    return struct.pack(">I", len(contents)) + name + contents + struct.pack(">I", zlib.crc32(name + contents))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(what)) + what + b"\0" * (len(what) % 2) for name, what in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


GIF = b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0x80, 0, 0) + bytes(6)
FRAME = b"\x21\xf9\x04\0\0\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 2, 2, 0) + b"\x02\x02\x44\x01\0"
PNG = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0))
# Headers alone: nothing here could be decoded.
MOVING = {
    "gif": GIF + FRAME + FRAME + b";",
    "gif without its end": GIF + FRAME + b"\x21\xfe\x02hi\0" + FRAME,
    "png": PNG + chunk(b"acTL", struct.pack(">II", 2, 0)),
    "webp by its flag": riff((b"VP8X", b"\x02" + bytes(9)), (b"VP8 ", b"x")),
    "webp by its frames": riff((b"ICCP", b"odd"), (b"ANMF", bytes(16))),
    "webp by its times": riff((b"ANIM", bytes(6))),
}


@pytest.mark.parametrize("kind", MOVING)
def test_animations_are_refused_before_a_decoder_sees_them(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match=r"^an animated"):
        form_of(MOVING[kind])
    path = tmp_path / "moves.png"
    path.write_bytes(MOVING[kind])
    with pytest.raises(
        ConfigError, match=r"moves\.png cannot be read: an animated (GIF|PNG|WebP)\. Give its first frame"
    ):
        one(path)


def test_what_has_one_frame_is_no_animation() -> None:
    assert form_of(GIF + FRAME + b";") == form_of(GIF + FRAME) == ImageForm.GIF
    assert form_of(riff((b"VP8X", b"\x10" + bytes(9)), (b"VP8 ", b"x"))) == ImageForm.WEBP
    assert form_of(PNG + chunk(b"IDAT", b"acTL")) == ImageForm.PNG


@pytest.mark.parametrize("whole", list(MOVING.values()))
def test_no_beginning_of_a_file_surprises_the_look_at_its_header(whole: bytes) -> None:
    for end in range(len(whole)):
        with contextlib.suppress(ValueError):
            form_of(whole[:end])


@pytest.mark.parametrize("form", ["jpg", "png", "gif", "bmp", "webp"])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, form: str) -> None:
    good, bad = tmp_path / f"good.{form}", tmp_path / f"bad.{form}"
    picture().save(good)
    bad.write_bytes(good.read_bytes()[: good.stat().st_size * 2 // 3])
    with pytest.raises(ConfigError, match=rf"train_data\(\): .*bad\.{form} cannot be read: \w"):
        read(images([good, bad, good], (8, 8)))


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (b"", "the file is empty"),
        (b"These are words.", "no JPEG, PNG, GIF, BMP or WebP"),
        (b"\xff\xd8\xff" + bytes(range(200)), "Invalid JPEG"),
        (PNG[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"x"), ""),
        (b"BM" + bytes(60), ""),
        (b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, 30_000, -30_000, 1, 24) + bytes(24), ""),
    ],
)  # fmt: skip
def test_what_is_no_image_is_named(tmp_path: Path, contents: bytes, said: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(contents)
    with pytest.raises(ConfigError, match=rf"bad\.jpg cannot be read: .*{said}"):
        one(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.jpg.* No such file"):
        one(tmp_path / "gone.jpg")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda folder: (images, folder / "cat", (8, 8)), "no class folder.*\nImages belong into one folder"),
        (lambda folder: (images, folder / "gone", (8, 8)), "No such file or directory\nCorrect the path"),
        (lambda folder: (images, folder / "cat/a2.JPG", (8, 8)), "Not a directory"),
        (lambda folder: (images, folder / "texts", (8, 8)), "no image .*there are 1 .txt\n"),
        (lambda folder: (images, [], (8, 8)), "list of images is empty\nGive"),
        (lambda folder: (images, folder, (8, 0)), "size of images.*\nGive"),
        (lambda folder: (images, folder, 8), "size of images.*\nGive"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(folder: Path, arguments: Any, said: str) -> None:
    (folder / "texts/a").mkdir(parents=True)
    (folder / "texts/a/b.txt").write_text("x")
    function, *values = arguments(folder)
    with pytest.raises(ConfigError, match=said):
        function(*values)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": [1]}, "2 paths, labels: 1\nGive one label for each"),
        ({"labels": 3}, "labels: one number\nGive one label for each"),
        ({"labels": ["cat", "dog"]}, "not numbers.*\nNumbers of texts"),
        ({"labels": [[1], [1, 2]]}, "not numbers"),
        ({"labels": [1, 2**40]}, "more than 32 bits\n"),
        ({"channels": 2}, "channels of images: 2\nGive"),
        ({"resize": "cubic"}, "resize of images: 'cubic'\nGive one of bilinear"),
    ],
)
def test_options_that_do_not_fit_are_said_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        images(["a.jpg", "b.jpg"], (8, 8), **options)


def test_labels_do_not_come_with_a_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match="labels come with a list of files"):
        images(folder, (8, 8), labels=[1, 2, 3, 4])


def test_the_example_reads_what_it_wrote(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "examples/images/task.py"
    spec = importlib.util.spec_from_file_location("example_of_images", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    task = module.Pictures(str(tmp_path / "digits"))
    pixels, labels = read(task.evaluation_data())
    assert pixels.shape == (360, 16, 16, 1)
    assert len(task.train_data()) == 1437
    assert (np.diff(labels) >= 0).all()
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
