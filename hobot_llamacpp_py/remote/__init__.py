"""An engine that is a server somewhere else; nothing of it is imported unless there is one."""
