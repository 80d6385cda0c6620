"""The comparison as numbers, tables and pictures: evaluation rows in, text out; no clock, no network, no test data."""
