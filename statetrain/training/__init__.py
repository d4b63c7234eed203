"""Training, evaluating, predicting: a context, a lifecycle and a machine, made of what a user has."""
