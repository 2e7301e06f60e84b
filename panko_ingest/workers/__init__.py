"""The processes of the daemon: the master, what it runs, and the parts that these are made of."""
