"""Letters of any script as parts of regular expressions; imports nothing heavy, so that text is read without torch."""

from itertools import groupby
from unicodedata import category

_BLOCKS = (range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0xF900, 0xFB00), range(0x20000, 0x40000))


def _ranges(kind: str) -> str:
    """The characters of a general category, given by its first letter, ideographs left out: ranges for a class."""

    def wanted(code: int) -> bool:
        return category(chr(code))[0] == kind and not any(code in block for block in _BLOCKS)

    # Above the first two planes there are ideographs, private characters and selectors only.
    runs = [list(codes) for chosen, codes in groupby(range(0x20000), wanted) if chosen]
    return "".join(f"{chr(codes[0])}-{chr(codes[-1])}" for codes in runs)


IDEOGRAPHS = "".join(f"{chr(block[0])}-{chr(block[-1])}" for block in _BLOCKS)
MARKS = _ranges("M") + "\U000e0100-\U000e01ef"
"""Combining marks, and the selectors that choose a variant of the ideograph before them."""
LETTER = f"(?:[{_ranges('L')}][{MARKS}]*+)"
"""A letter with its combining marks. An ideograph is none: it is a word of its own."""
