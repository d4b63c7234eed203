"""Where and how is computed: devices, randomness, copies, masks, graphs, inference, and what a batch leaves behind."""
