"""A picture with question and answer beneath it."""
