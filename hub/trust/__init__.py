"""Making signed metadata: the operator's offline keys, the hub's online keys, what they sign."""
