"""Pictures: reading them, encoding them, and where each image patch lies in the original."""
