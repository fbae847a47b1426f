"""Export models for TF Serving, check exports, and predict with them."""
