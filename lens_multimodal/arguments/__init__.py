"""What users name in every public function (positions, layers, neurons, tokens, targets), read once at the boundary."""
