"""A gateway that speaks OpenAI's Images API in front of a Triton server. Needs `pip install 'fluxclient[gateway]'`.

app.py puts it together. Who comes in is decided in admission/, what is asked is in openai/ and the files *_routes.py.
May import: all of fluxclient but cli.
"""
