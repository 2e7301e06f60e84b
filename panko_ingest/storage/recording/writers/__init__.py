"""Rows into the tables: a module for each database, chosen by ``registry``; ``portable`` for all others."""
