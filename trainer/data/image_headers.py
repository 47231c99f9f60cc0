"""What the first bytes of an image file say, before a decoder sees it: its form, and whether it moves.

TensorFlow's decoders take the first frame of most animations in silence, and one kind of valid animation ends the interpreter:
none gets as far as that. JPEG files have no frames and do not come through here.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

PNG, GIF, BMP, JPEG = b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a"), b"BM", b"\xff\xd8\xff"
"""With what a file of each form begins."""
_STILL = "Give its first frame alone, or leave it out."
_CUT = "the file is cut off"


class ImageForm(IntEnum):
    """What a file holds, as far as decoding differs."""

    PNG = 0
    GIF = 1
    BMP = 2
    WEBP = 3


def form_of(contents: bytes) -> ImageForm:
    """The form of a file that is no JPEG.

    Raises:
        ValueError: an animation, an empty file, a cut-off one, or no image of these forms; a sentence or two without the
            file's name, on one line.
    """
    if not contents:
        raise ValueError("the file is empty")
    if contents.startswith(PNG):
        _still_png(contents)
        return ImageForm.PNG
    if contents.startswith(GIF):
        _still_gif(contents)
        return ImageForm.GIF
    if contents.startswith(b"RIFF") and contents[8:12] == b"WEBP":
        _still_webp(contents)
        return ImageForm.WEBP
    if contents.startswith(BMP):
        _true_colour_bmp(contents)
        return ImageForm.BMP
    raise ValueError("what it holds is no JPEG, PNG, GIF, BMP or WebP image, whatever its name says")


def _true_colour_bmp(contents: bytes) -> None:
    """TensorFlow takes the places in a palette for greys, and packed pixels for plain ones. A palette of 256 greys is well."""
    if len(contents) < 34:
        raise ValueError(_CUT)
    table = 14 + struct.unpack_from("<I", contents, 14)[0]
    bits, compression = struct.unpack_from("<HI", contents, 28)
    greys = b"".join(bytes([grey, grey, grey]) for grey in range(256))
    palette = b"".join(contents[at : at + 3] for at in range(table, table + 4 * 256, 4))
    if bits not in (8, 24, 32) or compression not in (0, 3) or (bits == 8 and palette != greys):
        raise ValueError("a BMP with a palette or packed pixels, which TensorFlow cannot read. Make it a PNG")


def _still_png(contents: bytes) -> None:
    """An animated PNG says so in a chunk acTL before its pixels (APNG specification)."""
    at = len(PNG)
    while at + 8 <= len(contents):
        size, name = struct.unpack_from(">I4s", contents, at)
        if name == b"acTL":
            raise ValueError(f"an animated PNG. {_STILL}")
        if name in (b"IDAT", b"IEND"):
            return
        at += 12 + size
    raise ValueError(_CUT)


def _still_gif(contents: bytes) -> None:
    """Walks over the blocks of the file: GIF says nowhere how many frames it has (GIF89a specification, sections 18 to 27)."""
    frames = 0
    try:
        at = 13 + _table_bytes(contents[10])
        # Some writers leave out the byte that ends a file.
        while at < len(contents) and (block := contents[at]) in (0x21, 0x2C):
            if block == 0x2C:
                frames += 1
                if frames > 1:
                    raise ValueError(f"an animated GIF. {_STILL}")
                at += 11 + _table_bytes(contents[at + 9])
            else:
                at += 2
            while count := contents[at]:
                at += 1 + count
            at += 1
    except IndexError:
        raise ValueError(_CUT) from None
    if not frames:
        raise ValueError("a GIF without an image")


def _table_bytes(packed: int) -> int:
    """Size of the table of colours that this byte announces."""
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _still_webp(contents: bytes) -> None:
    """An animated WebP has bit 1 of the flags of VP8X, and chunks ANIM and ANMF (RFC 9649, section 2.7)."""
    if struct.unpack_from("<I", contents, 4)[0] + 8 > len(contents):
        raise ValueError(_CUT)
    for name, at in _webp_chunks(contents):
        if name in (b"ANIM", b"ANMF") or (name == b"VP8X" and contents[at : at + 1] and contents[at] & 2):
            raise ValueError(f"an animated WebP. {_STILL}")


def _webp_chunks(contents: bytes) -> Iterator[tuple[bytes, int]]:
    """The names of chunks, and where their contents begin."""
    at = 12
    while at + 8 <= len(contents):
        name, size = struct.unpack_from("<4sI", contents, at)
        yield name, at + 8
        at += 8 + size + size % 2
