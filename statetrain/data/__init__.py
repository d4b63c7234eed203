"""The data of a run: loaders of what users have, how a batch is read, iterating, and taking it up again."""
