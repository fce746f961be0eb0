"""One HTTP server in front of the one engine; nothing of it is imported unless it is asked for."""
