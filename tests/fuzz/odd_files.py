"""Strategies: EXIF blocks and COCO objects as other programs write them, intact and broken."""

import struct
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.anything import mostly

ORIENTATION = 0x0112
TAGS = st.sampled_from([ORIENTATION, ORIENTATION, 0x8769, 0x8825, 0xA005, 0x011A, 0x0128, 0x010F, 0x927C])


@st.composite
def exif_blocks(draw) -> bytes:
    """A directory of a few entries, cut off or followed by noise at times; or nothing but noise."""
    if not draw(st.integers(0, 5)):
        return draw(st.binary(max_size=60))
    order = draw(st.sampled_from("<>"))
    offsets = st.sampled_from([0, 1, 3, 6, 8, 26, 100, 10**6, 2**32 - 1])
    entries = draw(
        st.lists(
            st.tuples(TAGS, st.sampled_from([*range(1, 14), 99]), st.sampled_from([0, 1, 2, 1000, 2**31]), offsets),
            max_size=4,
        )
    )
    if draw(st.booleans()):
        value = draw(st.integers(0, 9))
        entries.insert(0, (ORIENTATION, 3, 1, value if order == "<" else value << 16))
    body = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(
        f"{order}I", draw(st.sampled_from([8, 8, 8, 0, 10**9]))
    )
    block = head + struct.pack(f"{order}H", len(entries)) + body + struct.pack(f"{order}I", draw(offsets))
    kept = draw(st.integers(0, len(block))) if not draw(st.integers(0, 3)) else len(block)
    return block[:kept] + draw(st.just(b"") | st.binary(max_size=20))


numbers = st.one_of(
    st.integers(-5, 40),
    st.floats(-5, 40),
    st.sampled_from([float("nan"), float("inf"), -(10**400), 1e300, True, None, "3", [1]]),
)


def coco_objects(*, height: int, width: int) -> st.SearchStrategy[dict[str, Any]]:
    """Annotations of picture 1 and category 2, three in four of each part well-formed."""
    side = st.floats(0, 20)
    triangles = st.lists(side, min_size=6, max_size=12).filter(lambda part: len(part) % 2 == 0)
    polygons = mostly(
        st.lists(triangles, min_size=1, max_size=3),
        st.lists(st.lists(numbers, max_size=9), max_size=3),
        triangles,
    )
    runs = st.lists(st.integers(0, height * width), max_size=6).map(lambda cuts: _runs(sorted(cuts), height * width))
    counts = mostly(
        runs,
        st.lists(numbers, max_size=6),
        st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12),
        st.text(max_size=3),
    )
    sizes = mostly(st.just([height, width]), st.just([width, height]), st.lists(numbers, max_size=3))
    encoded = st.fixed_dictionaries({"size": sizes, "counts": counts})
    return st.fixed_dictionaries(
        {
            "id": mostly(st.integers(0, 9), numbers),
            "image_id": mostly(st.just(1), numbers),
            "category_id": mostly(st.just(2), numbers),
            "area": mostly(side, numbers),
            "bbox": mostly(st.lists(side, min_size=4, max_size=4), st.lists(numbers, max_size=5)),
            "segmentation": mostly(polygons | encoded, numbers),
        },
        optional={"iscrowd": mostly(st.sampled_from([0, 1, None]), numbers), "extra": numbers},
    )


def _runs(cuts: list[int], pixels: int) -> list[int]:
    """Run lengths between these places, which cover this many pixels."""
    places = [0, *cuts, pixels]
    return [after - before for before, after in pairwise(places)]
