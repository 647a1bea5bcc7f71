"""What a browser opens: ``atlas``, a page for every feature, and ``desk``, knobs to turn."""
