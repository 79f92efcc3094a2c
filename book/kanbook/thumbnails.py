"""Small pictures for a page of many: curves and maps as SVG, with nothing to load.

Usage::

    from kanbook.thumbnails import curves, maps, picture

    picture(curves([(x, y, BLUE)], log_y=True), alt="What it shows.")   # an <img> for Markdown

They are drawn in greys and colours that both themes leave legible, as the pictures of the README.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from kanlib.viz.colors import BLUE, GREY, VERMILLION

WIDTH, HEIGHT, MARGIN = 240, 150, 8
COLD, WARM, WHITE = BLUE, VERMILLION, "#f2f2f2"

Curve = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray, str]


def curves(
    lines: Sequence[Curve],
    *,
    log_x: bool = False,
    log_y: bool = False,
    dots: bool = False,
    switches: Sequence[float] = (),
) -> str:
    """Return curves in one frame.

    Args:
        lines: x, y and colour of each.
        log_x: whether x is logarithmic.
        log_y: whether y is logarithmic.
        dots: whether points are marked and not connected.
        switches: places on the x axis that are marked by a line.
    """
    scaled = [
        (np.log10(x) if log_x else np.asarray(x), np.log10(y) if log_y else np.asarray(y))
        for x, y, _ in lines
    ]
    low = [min(float(each[axis].min()) for each in scaled) for axis in (0, 1)]
    high = [max(float(each[axis].max()) for each in scaled) for axis in (0, 1)]

    def left(x: Any) -> Any:
        return MARGIN + (x - low[0]) / (high[0] - low[0]) * (WIDTH - 2 * MARGIN)

    def top(y: Any) -> Any:
        return HEIGHT - MARGIN - (y - low[1]) / (high[1] - low[1]) * (HEIGHT - 2 * MARGIN)

    parts = [
        f'<path d="M{left(np.log10(at) if log_x else at):.1f},0V{HEIGHT}" stroke="{GREY}" '
        'stroke-opacity=".5"/>'
        for at in switches
    ]
    for (x, y), (_, _, color) in zip(scaled, lines, strict=True):
        points = [f"{a:.1f},{b:.1f}" for a, b in zip(left(x), top(y), strict=True)]
        if dots:
            parts += [f'<circle r="2" fill="{color}" transform="translate({p})"/>' for p in points]
        else:
            parts.append(
                f'<path d="M{"L".join(points)}" fill="none" stroke="{color}" stroke-width="2"/>'
            )
    return _svg("".join(parts))


def maps(rows: Sequence[Sequence[tuple[np.ndarray, float, float]]], signed: bool = False) -> str:
    """Return maps in rows, each from white to blue, or from blue to vermillion if signed.

    Args:
        rows: values (height, width) of each map, drawn upwards, and the ends of its scale.
        signed: whether the middle of the scale is white.
    """
    height, width = HEIGHT / len(rows), WIDTH / len(rows[0])
    parts = []
    for i, row in enumerate(rows):
        for j, (values, low, high) in enumerate(row):
            data = b64encode(_png(_colored((values[::-1] - low) / (high - low), signed))).decode()
            parts.append(
                f'<image x="{j * width + 1:.1f}" y="{i * height + 1:.1f}" width="{width - 2:.1f}" '
                f'height="{height - 2:.1f}" preserveAspectRatio="none" '
                f'href="data:image/png;base64,{data}"/>'
            )
    return _svg("".join(parts))


def picture(svg: str, alt: str) -> str:
    """Return an ``<img>`` of a picture, for a paragraph of Markdown.

    Its class tells the theme that it suits light and dark.

    Args:
        svg: what `curves` or `maps` return.
        alt: what it shows, for those who cannot see it; plain text.

    Raises:
        ValueError: if `alt` is blank.
    """
    if not alt.strip():
        raise ValueError(f"alt = {alt!r}: expected a sentence that says what the picture shows")
    data = b64encode(svg.encode()).decode()
    return (
        f'<img class="dark-light" src="data:image/svg+xml;base64,{data}" alt="{escape(alt)}" '
        f'width="{WIDTH}" height="{HEIGHT}">'
    )


def _svg(body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="{GREY}" '
        f'stroke-opacity=".6"/>{body}</svg>'
    )


def _colored(share: np.ndarray, signed: bool) -> np.ndarray:
    """Return the colour (..., 3) of shares of a scale."""
    stops = (COLD, WHITE, WARM) if signed else (WHITE, COLD)
    colors = np.array([[int(stop[k : k + 2], 16) for k in (1, 3, 5)] for stop in stops])
    at = np.linspace(0, 1, len(stops))
    channels = [np.interp(np.clip(share, 0, 1), at, colors[:, k]) for k in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    """Return pixels (height, width, 3) as a PNG file."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )
