"""How lenses, prompts, neurons and results look in a notebook: plain HTML that fetches nothing and runs no script.

`lens_multimodal.notebook` loads this package when a notebook first shows a value.
"""

from lens_multimodal.views.notebook import (  # noqa: F401 (each registers its types with html_of)
    lens_html,
    neuron_card_html,
    neuron_table_html,
    prompt_html,
    results_html,
)
from lens_multimodal.views.notebook.shown import html_of, page, save_html

__all__ = ["html_of", "page", "save_html"]
