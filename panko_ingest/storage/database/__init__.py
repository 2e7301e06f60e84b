"""The way to the database: engines and pools, retries, locks, and what its errors mean."""
