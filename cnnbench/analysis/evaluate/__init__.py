"""What one trained run does on one split: exact metrics, robustness, and their figures.

Several runs side by side are ``compare``'s; classes of images without labels are ``predict``'s.
"""
