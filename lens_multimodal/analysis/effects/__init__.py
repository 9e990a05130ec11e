"""Effects of interventions, compared with random interventions of the same size."""
