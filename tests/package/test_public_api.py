"""The public API does not change unnoticed."""

from tests.package.public_api import RECORDED, lines


def test_the_public_api_is_as_recorded():
    recorded, now = set(RECORDED.read_text().splitlines()), set(lines())
    assert not recorded - now, (
        f"gone or changed: {sorted(recorded - now)}\nnew: {sorted(now - recorded)}\nA name that goes needs a "
        f"deprecation (CONTRIBUTING.md); afterwards record the API with `python -m tests.package.public_api`"
    )
    assert not now - recorded, f"record what is new with `python -m tests.package.public_api`: {sorted(now - recorded)}"


def test_every_name_leads_somewhere():
    import lens_multimodal

    assert all(getattr(lens_multimodal, name) is not None for name in lens_multimodal.__all__)
    assert set(lens_multimodal.__all__) <= set(dir(lens_multimodal))
    assert lens_multimodal.__all__ == sorted(lens_multimodal.__all__)
