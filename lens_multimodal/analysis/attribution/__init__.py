"""Which neurons, heads and positions a prediction comes from, by several scores, and which score to believe."""
