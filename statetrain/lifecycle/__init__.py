"""The lifecycle as a value: states and arrows, checked.

As text and as plain data, joined with others, and explored in all its ways.
"""
