"""What a caller asks for, checked and turned into the tensors of a request: the table of options, pictures, LoRAs.

May import: fluxclient.errors.
"""
