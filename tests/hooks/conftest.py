import torch

# The models are tiny: threads only wait for each other.
torch.set_num_threads(1)
