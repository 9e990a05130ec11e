"""Prompts of images and text: soft prompts behind token ids, and generation from them."""
