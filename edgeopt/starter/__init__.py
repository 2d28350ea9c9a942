"""``edgeopt init``: what can be seen of a model, as an edgeopt.toml and a Python file to begin with.

look (seen.py) -> choices (choices.py) -> texts (code_text.py, config_text.py) -> files (start.py)
"""
