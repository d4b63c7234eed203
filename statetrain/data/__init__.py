"""The data of a run: making loaders, reading and placing batches, iterating and resuming."""
