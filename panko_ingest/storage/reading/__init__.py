"""What is stored, by filters and pages."""
