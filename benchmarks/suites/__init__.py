"""Suites that prove what `docs/reliability.md` promises: each module makes cases, and each case raises if the promise is broken."""
