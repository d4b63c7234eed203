"""The standard lifecycles: the table, options as edits, actions, and modes of scopes."""
