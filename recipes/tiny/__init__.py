"""The tiny trio from scratch: pictures and text, three trainings, evaluation, packing."""
