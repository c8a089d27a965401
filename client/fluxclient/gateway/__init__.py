"""A gateway that speaks OpenAI's Images API in front of a Triton server. Needs `pip install 'fluxclient[gateway]'`.

The APIs are in openai/ and replaced/, what people see in page/, and who may come in is decided in admission/.
May import: all of fluxclient but cli.
"""
