"""The load lab: Locust users, and a comparison of serving strategies. See README.md."""
