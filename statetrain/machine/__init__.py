"""The machine: a lifecycle bound to callbacks and compiled, and the loop that runs it."""
