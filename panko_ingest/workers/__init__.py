"""The services that cotyledon runs, one module each."""
