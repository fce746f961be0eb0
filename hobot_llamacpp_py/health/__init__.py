"""What the machine must have, and what mends it."""
