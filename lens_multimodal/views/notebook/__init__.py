"""How lenses, prompts, neurons and results look in a notebook: plain HTML, nothing fetched, no scripts."""

from lens_multimodal.views.notebook.neuron_card_html import NeuronCard, SampleActivation
from lens_multimodal.views.notebook.neuron_table import NeuronTable
from lens_multimodal.views.notebook.templates_engine import save_html

__all__ = ["NeuronCard", "NeuronTable", "SampleActivation", "save_html"]
