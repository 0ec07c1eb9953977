"""Results drawn as figures, and the curves of the von Mises-Fisher distribution."""
