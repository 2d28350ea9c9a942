"""Compression from one file: steps of techniques with fine-tuning between them, judged after each, and an export at the end.

recipe.toml --> Recipe --> Subject --> step, measure, judge --> step, ... --> Outcome, DIR/model.pt2, DIR/bundle
"""
