"""A gateway that speaks OpenAI's Images API in front of a Triton server. Needs `pip install 'fluxclient[gateway]'`."""
