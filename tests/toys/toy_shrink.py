"""Shrink every time step of vanilla by a factor that falls with the length; trains like vanilla."""

from pydantic import Field

from lgbench.method import Method, ScanIntervention


class ToyShrink(Method):
    """A training-free remedy of the smallest kind."""

    class Params(Method.Params):
        factor: float = Field(0.5, gt=0, le=1, description="per doubling of the training length")

    trains_like = "vanilla"
    prefix_exact = False

    def intervention(self, train_length, d_model):
        """Δ times factor ** (length / train_length)."""
        return _Shrunk(self.params.factor, train_length)


class _Shrunk(ScanIntervention):
    def __init__(self, factor, train_length):
        self.factor, self.train_length, self.scale = factor, train_length, 1.0

    def begin(self, mode, length, num_protected):
        self.scale = self.factor ** (length / self.train_length)

    def timestep(self, layer, delta):
        return self.scale * delta
