"""Pictures that live: a page on which a lifecycle folds, zooms, and shows a run as it goes on.

`table` and `chronicle` say what is shown, `page` writes it into one file that needs no network, and
`serving` follows a run on a local address.
"""
