"""Standing questions about what a camera sees."""
