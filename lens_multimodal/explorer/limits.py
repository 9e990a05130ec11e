"""The explorer's limits, for one request and in total."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Every limit of the explorer.

    Raises: ValueError for a limit below 1, or fewer than two pictures held.
    """

    upload_bytes: int = 10 * 2**20
    """Of one uploaded file."""
    upload_pixels: int = 20_000_000
    """Of one uploaded picture, checked before it is decoded."""
    request_bytes: int = 64 * 2**10
    """Of any other request."""
    uploads_held: int = 12
    """Uploaded pictures in memory; the least recently used one is dropped first."""
    samples_held: int = 48
    """Encoded sample scenes in memory."""
    neurons: int = 100
    """Rows of one table of neurons, and neurons changed at once."""
    new_tokens: int = 20
    """Of a caption."""
    wait_s: float | int = 120
    """How long a request waits for the model before it is refused because the model is busy."""

    def __post_init__(self) -> None:
        low = {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) < 1}
        if low:
            raise ValueError(f"limits must be at least 1, got {low}")
        if min(self.uploads_held, self.samples_held) < 2:
            raise ValueError(
                f"uploads_held={self.uploads_held} and samples_held={self.samples_held} must both be at least 2: "
                f"patching needs two pictures at once"
            )
