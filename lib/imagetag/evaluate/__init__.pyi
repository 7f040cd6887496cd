from .evaluate import evaluate_tag as evaluate_tag
