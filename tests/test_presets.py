"The presets are the report's models, to the last digit."
import numpy as np, pytest, torch
from functools import partial
from scvae_nb.ae import DeepAE
from scvae_nb.data import demo
from scvae_nb.estimator import MODELS, StackedModel
from scvae_nb.posteriors import Gaussian, Point, SpikeSlab
from scvae_nb.train import seeded
from scvae_nb.vae import BetaVAE
from scvae_nb.vsc import BetaVSC

POSTERIORS = {DeepAE: partial(Point, relu=True),
              BetaVAE: partial(Gaussian, sigma_head="log_sd"),
              BetaVSC: partial(SpikeSlab, alpha=.5, sharpness=50., clip=1e-6, sigma_head="log_sd")}
SETTINGS = dict(n_latent=6, hidden=(128, 32), head_hidden=16, decoder_hidden=None, input_relu=False, max_epochs=200,
                batch_size=256, lr=1e-3, reduction="mean")

class Report(StackedModel):
    "The report's stack, said in full."
    def build(self, n_genes, start=None, shift=None):
        beta = 1. if self.kind is DeepAE else 2.
        return self.gaussian_pair(n_genes, POSTERIORS[self.kind], start, shift, beta)

def loss_and_gradients(net, x):
    with seeded(1): loss = net(x)["loss"]
    return [loss.detach(), *torch.autograd.grad(loss, list(net.parameters()))]

@pytest.mark.parametrize("Model", POSTERIORS)
def test_preset_is_the_report(Model):
    cells = demo()
    few = dict(max_epochs=2, batch_size=100, progress=False, random_state=0)
    direct = Report(**SETTINGS | few)
    direct.kind = Model
    models = Model.report(**few).fit(cells), direct.fit(cells)
    x = torch.from_numpy(cells.X[:50].toarray())
    starts = []
    for m in models:
        with seeded(3): starts.append(m.build(cells.n_vars))
    for one, two in (starts, [m.to_torch() for m in models]):
        a, b = one.state_dict(), two.state_dict()
        assert list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)
        assert all(torch.equal(u, v) for u, v in zip(loss_and_gradients(one, x), loss_and_gradients(two, x)))
    assert models[0].history_ == models[1].history_
    np.testing.assert_array_equal(models[0].transform(cells), models[1].transform(cells))

@pytest.mark.parametrize("Model", POSTERIORS)
def test_preset_settings(Model):
    params = Model.report().get_params()
    assert {k: params[k] for k in SETTINGS} == SETTINGS
    assert Model.report(n_latent=3).n_latent == 3 and Model.report().is_plain and not Model().is_plain

def test_the_registry_gives_presets():
    assert MODELS["vae"].preset().get_params() == BetaVAE.report().get_params()
    assert type(MODELS["ppca"].preset()).__name__ == "ProbabilisticPCA"
