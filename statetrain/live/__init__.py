"""Pictures that live: a page on which a lifecycle folds, zooms, and follows a run.

`table` and `chronicle` say what is shown, `page` writes it into one file that needs no network, and
`serving` follows a run on a local address.
"""
