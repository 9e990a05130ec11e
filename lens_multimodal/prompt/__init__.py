"""Images among words: virtual tokens, the projection, prompts, and the captions that follow them."""
