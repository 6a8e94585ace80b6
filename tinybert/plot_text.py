"""Labels in pictures: drawn in whatever script installed fonts know, and by number where none of them does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib import font_manager

from tinybert.progress import logger

FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Noto Sans",
)
"""Fonts asked, in this order, for the letters that matplotlib's own does not have; those that are not installed are
passed over."""
PACKAGES = "fonts-noto-cjk (Debian, Ubuntu) or google-noto-sans-cjk-fonts (Fedora)"
"""Which have Chinese, Japanese and Korean letters."""


@contextmanager
def lettering() -> Iterator[None]:
    """Inside, every installed font of `FONTS` stands behind the usual ones, and a dollar sign is a dollar sign."""
    with mpl.rc_context({"font.family": _families(), "text.parse_math": False}):
        yield


def legible(names: Sequence[str]) -> list[str]:
    """Names as they can be drawn with `lettering`: #3 for the one in place 3 where a letter of it is in no font."""
    missing = _missing("".join(names))
    return [f"#{place}" if missing.intersection(name) else name for place, name in enumerate(names)]


def legend(names: Sequence[str]) -> str:
    """What the numbers stand for that `legible` gives; empty where it gives none. Logs which font to install."""
    drawn = legible(names)
    told = [f"{number} {name}" for number, name in zip(drawn, names, strict=True) if number != name]
    if told:
        logger.warning("no installed font has all letters of the labels; pictures number them; install %s", PACKAGES)
    return ", ".join(told)


def _families() -> list[str]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [*mpl.rcParams["font.family"], *(name for name in FONTS if name in installed)]


def _missing(text: str) -> set[str]:
    """Letters that no font has."""
    files = [font_manager.findfont(font_manager.FontProperties(family=[name])) for name in _families()]
    fonts = [font_manager.get_font(file) for file in files]
    return {letter for letter in text if not any(font.get_char_index(ord(letter)) for font in fonts)}
