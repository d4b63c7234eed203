"""Setting up a fit, a stage a file: calling, data, model, losses, lifecycle, machine, context.

Each stage is a function that takes what was given and what the stages before it made, and returns a
value. What cannot be made is refused, with what to do.
"""
