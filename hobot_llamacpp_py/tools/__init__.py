"""Commands for the person at the keyboard: one file a verb."""
