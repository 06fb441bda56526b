"""What goes wrong with denoisers. Needs no torch."""


class DenoiserError(ValueError):
    """A denoiser that cannot be loaded, or that returns something else than a denoised volume."""
