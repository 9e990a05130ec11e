"""How lenses, prompts, neurons and results look in a notebook: plain HTML, nothing fetched, no scripts."""

from lens_multimodal.display.neuron_card import NeuronCard, SampleActivation
from lens_multimodal.display.neuron_table import NeuronTable
from lens_multimodal.display.render import save_html

__all__ = ["NeuronCard", "NeuronTable", "SampleActivation", "save_html"]
