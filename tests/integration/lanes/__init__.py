"""Lanes into real targets: every kind of key through lost connections and refusals, none twice."""
