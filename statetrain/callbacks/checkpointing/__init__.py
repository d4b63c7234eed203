"""What `Checkpoint` is made of: when one is due, how it is written, which are kept and found."""
