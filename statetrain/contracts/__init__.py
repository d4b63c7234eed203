"""What components declare that they read and write, and what follows from it.

Data flow, order, debug mode and outline.
"""
