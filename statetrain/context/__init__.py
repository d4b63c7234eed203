"""The context: everything that a run knows, the history in it, and the paths that read any part of it."""
