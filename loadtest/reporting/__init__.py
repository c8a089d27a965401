"""What is said of the figures: tables, advice, JSON and its schemas, CSV, HTML, charts.

Imports lab, server and traffic.
"""
