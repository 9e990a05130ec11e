"""The arguments that users give: positions, layers, neurons, heads, tokens, targets; each has one reader here."""
