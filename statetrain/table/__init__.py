"""A lifecycle as a value to work with: as text, as plain data, joined with others, explored in all its ways."""
