"""The command line: `lens-multimodal` and `python -m lens_multimodal`.

Nothing heavy is imported before a command needs it, so `--help` answers at once.
"""

from lens_multimodal.cli.app import main

__all__ = ["main"]
