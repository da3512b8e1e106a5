"""Step-routed decoding: two co-resident models write one answer (GlimpRouter, arXiv 2601.05110)."""
