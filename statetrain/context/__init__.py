"""The context: everything that a run knows, its history, and the paths that read it."""
