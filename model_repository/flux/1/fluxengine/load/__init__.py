"""From a folder, a hub name or files of other people to a loaded family: whole, or an error that says what is amiss.

Knows families, compile/ and config. Used once, when the model starts.
"""
