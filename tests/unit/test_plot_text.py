"""Labels in pictures: in their own letters where a font has them, else by number, and never as empty boxes."""

import warnings

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.image import imread

from tinybert import pictures, plot_text

NAMES = ["\u6b63\u9762", "neutral", "$a_b$ & $c", "\u8d1f\u9762"]
"""Chinese: positive, negative."""


def build_font(path, family, letters):
    """A font whose letters are all the same square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    glyphs = {f"uni{ord(letter):04X}": ord(letter) for letter in letters}
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", *glyphs])
    font.setupCharacterMap({code: name for name, code in glyphs.items()})
    font.setupGlyf(dict.fromkeys([".notdef", *glyphs], pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys([".notdef", *glyphs], (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Installs a font for one test. No other of the known ones is there."""
    manager = font_manager.fontManager
    usual = [font for font in manager.ttflist if font.name not in plot_text.FONTS]
    monkeypatch.setattr(manager, "ttflist", usual)

    def install(family, letters):
        build_font(tmp_path / f"{family}.ttf", family, letters)
        manager.addfont(tmp_path / f"{family}.ttf")

    return install


@pytest.mark.usefixtures("install")
def test_labels_without_letters_go_by_number():
    assert plot_text.legible(NAMES) == ["#0", "neutral", "$a_b$ & $c", "#3"]


@pytest.mark.usefixtures("install")
def test_the_legend_says_what_numbers_stand_for_and_the_log_what_to_install(caplog):
    with caplog.at_level("WARNING", logger="tinybert"):
        assert plot_text.legend(NAMES) == f"#0 {NAMES[0]}, #3 {NAMES[3]}"
        assert plot_text.legend(["good", "bad"]) == ""
    [record] = caplog.records
    assert "install fonts-noto-cjk" in record.getMessage()


def test_an_installed_font_is_used_for_the_letters_it_has(install):
    install("SimHei", "\u6b63\u9762")
    assert plot_text.legible(NAMES) == [*NAMES[:3], "#3"]
    usual = list(mpl.rcParams["font.family"])
    with plot_text.lettering():
        assert Figure().text(0, 0, "label").get_fontfamily() == [*usual, "SimHei"]
    assert mpl.rcParams["font.family"] == usual


@pytest.mark.parametrize("letters", ["", "\u6b63\u9762"])
def test_pictures_are_drawn_without_a_missing_letter(install, letters, tmp_path):
    if letters:
        install("Noto Sans CJK SC", letters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = np.array([0, 1, 2, 3]), np.array([0, 1, 1, 3])
        pictures.draw_confusion(*chosen, NAMES, "student", tmp_path / "picture.png")
    assert imread(tmp_path / "picture.png").shape[0] > 300
