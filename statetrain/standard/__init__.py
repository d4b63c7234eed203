"""The standard lifecycles: the table, its options as edits, the actions of its states, and the modes of its scopes."""
