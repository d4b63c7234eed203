"""Training, evaluating and predicting: builds the context, lifecycle and machine."""
