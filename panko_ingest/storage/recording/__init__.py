"""From events to rows that are committed."""
