"""The lifecycle as a value: states and arrows, checked, as text and as plain data, joined with others, explored in all its ways."""
