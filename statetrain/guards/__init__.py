"""Guards: named predicates on the context, by what they read: counters, the history, the batch."""
