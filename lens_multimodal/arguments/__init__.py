"""The arguments that users give: positions, layers, neurons, heads, tokens and targets, each read in one place."""
