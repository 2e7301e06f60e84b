"""The shape of the tables: revisions, column limits, partitions, and whether all is as it should be."""
