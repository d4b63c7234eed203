"""The machine: a lifecycle bound to callbacks and compiled, the loop that walks it, and what a walk consists of beside it."""
