"""Notifications into events, by event definitions in Ceilometer's format."""
