"""What runs inside Locust: its options, users, and callers that send a schedule over each protocol.

Imports traffic. Nothing else may import this: Locust patches the process that it is imported into.
"""
