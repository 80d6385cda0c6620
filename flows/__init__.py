"""Prefect flows around the DVC graph: Prefect schedules, retries and shows; DVC decides what runs."""
