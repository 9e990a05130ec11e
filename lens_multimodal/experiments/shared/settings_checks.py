"""Checks that several settings make on construction."""


def require_at_least(settings: object, **least: int) -> None:
    """Check fields of settings.

    Raises: ValueError for a field below its least value.
    """
    for name, bound in least.items():
        if getattr(settings, name) < bound:
            raise ValueError(f"{name} must be at least {bound}, got {getattr(settings, name)}")


def require_share(settings: object, name: str) -> None:
    """Check a field that is a share.

    Raises: ValueError for a value outside (0, 1].
    """
    if not 0 < getattr(settings, name) <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {getattr(settings, name)}")
