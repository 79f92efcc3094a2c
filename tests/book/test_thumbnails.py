"""Small pictures: what they draw, read back from the SVG and the PNG in it."""

import re
import struct
import zlib
from base64 import b64decode
from xml.etree import ElementTree

import numpy as np
import pytest

from kanbook.thumbnails import HEIGHT, MARGIN, WIDTH, curves, maps, picture

SPACE = "{http://www.w3.org/2000/svg}"


def pixels(data: bytes) -> np.ndarray:
    """Return the pixels of a PNG of 8-bit RGB without filters, whose checksums must hold."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (check,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert check == zlib.crc32(kind + body)
        parts[kind] = body
        at += 12 + length
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:].reshape(height, width, 3)


def test_curve_reaches_from_corner_to_corner_of_its_frame():
    x = np.array([1.0, 10.0, 100.0])
    root = ElementTree.fromstring(curves([(x, x**2, "#123456")], log_x=True, log_y=True))
    (line,) = root.findall(f"{SPACE}path")
    points = [tuple(map(float, p.split(","))) for p in re.findall(r"[\d.]+,[\d.]+", line.get("d"))]
    middle = (WIDTH / 2, HEIGHT / 2)
    assert points == [(MARGIN, HEIGHT - MARGIN), middle, (WIDTH - MARGIN, MARGIN)]
    assert line.get("stroke") == "#123456"


def test_dots_and_switches_stand_where_they_should():
    svg = curves([([0, 4], [1, 2], "#123456")], dots=True, switches=[2])
    root = ElementTree.fromstring(svg)
    assert len(root.findall(f"{SPACE}circle")) == 2
    assert root.find(f"{SPACE}path").get("d").startswith(f"M{WIDTH / 2:.1f},0V")


@pytest.mark.parametrize(
    ("signed", "ends"),
    [(True, [(0, 114, 178), (242, 242, 242), (213, 94, 0)]), (False, [(242, 242, 242)])],
)
def test_map_has_its_first_row_below(signed, ends):
    values = np.array([[-1.0, 0.0, 1.0], [5.0, 5.0, 5.0]])
    root = ElementTree.fromstring(maps([[(values, -1.0, 1.0)]], signed=signed))
    data = root.find(f"{SPACE}image").get("href").split(",", 1)[1]
    found = pixels(b64decode(data))
    assert found.shape == (2, 3, 3)
    assert [tuple(each) for each in found[1][: len(ends)]] == ends
    last = (213, 94, 0) if signed else (0, 114, 178)
    assert (found[0] == last).all()  # beyond the scale is its end


def test_picture_is_an_image_with_its_alternative():
    svg = curves([([0, 1], [0, 1], "#123456")])
    html = picture(svg, alt='a < "b"')
    assert 'alt="a &lt; &quot;b&quot;"' in html
    assert b64decode(re.search(r"base64,([^\"]+)", html)[1]).decode() == svg
    with pytest.raises(ValueError, match="alt = ''"):
        picture(svg, alt="")
