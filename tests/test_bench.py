"The benchmark runs, and its opponent is the same network. Nothing is timed here."
import subprocess, sys
import pandas as pd, torch
from conftest import ROOT
from scvae_nb.ae import DeepAE
from scvae_nb.data import demo

sys.path.insert(0, str(ROOT/'bench'))

def test_opponent_is_the_same_network():
    "With the same weights the plain loop's first loss is ours, and it has the same parameters"
    import plain
    cells, model = demo(), DeepAE()
    ours = model._build(cells.n_vars)
    theirs = plain.network(cells.n_vars)
    linear = [m for m in theirs if isinstance(m, torch.nn.Linear)]
    enc, dec = ours.encoder, ours.decoder
    inner = [m for part in (enc.stack, enc.heads[0], dec.stack) for m in part.modules() if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        linear[0].weight.copy_(enc.input.weight.T); linear[0].bias.copy_(enc.input.bias)
        for a, b in zip(linear[1:-1], inner, strict=True): a.weight.copy_(b.weight); a.bias.copy_(b.bias)
        linear[-1].weight.copy_(dec.weight[:, :128]); linear[-1].bias.copy_(dec.weight[:, -1])
    ours.latent_relu = True
    X = torch.from_numpy(cells.X.toarray())
    expected = ours(X)['loss'].item()
    losses, seconds = plain.fit(X, 1, 700, net=theirs)                              # the loss before the one step
    assert abs(losses[0]/expected - 1) < 1e-5 and len(seconds) == 1
    filled_up = cells.n_vars*dec.n_zeros                                            # columns of zeros, for speed
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters()) - filled_up

def test_runs(tmp_path):
    done = subprocess.run([sys.executable, ROOT/'bench/run.py', '--tiny', '--rounds', '2', '--out', tmp_path/'b'], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"The comparison is in {tmp_path/'b/bench.html'}"
    table, grown = (pd.read_csv(tmp_path/'b'/n) for n in ('bench.csv', 'growth.csv'))
    assert list(table.who) == ['ours', 'plain']*2 and (table.epoch_s > 0).all() and (table.peak_mb > 50).all() and (table.limit_s > 0).all()
    assert set(grown.cells) == {300, 600} and grown.nonzeros.gt(0).all()
    counted = pd.read_csv(tmp_path/'b/counts.csv')
    assert list(counted.who) == ['counts']*2 and (counted.elbo < 0).all() and (counted.elbo < -counted.reconstruction).all()
    page = (tmp_path/'b/bench.html').read_text()
    assert page.count('data:image/png;base64,') == 2 and 'times as fast' in page
    assert sorted(p.name for p in (tmp_path/'b').iterdir()) == ['bench.csv', 'bench.html', 'counts.csv', 'epochs.png', 'growth.csv', 'growth.png', 'machine.txt']

def test_verdict_on_the_same_model():
    "Twice as fast, half the memory and one per cent better come out as such"
    from page import same_model
    row = lambda who, s, mb, e: dict(who=who, batch_size=64, round=0, epoch_s=s, peak_mb=mb, imported_mb=300., reconstruction=-e - 10, elbo=e)
    both, (verdict,) = same_model(pd.DataFrame([row('counts', 1., 500., -990.), row('scvi', 2., 1000., -1000.)]))
    assert len(both) == 2 and 'batches of 64 an epoch of ours is 2.0 times as fast (2.0 to 2.0)' in verdict and '50% of the memory from start to end, 29% beyond' in verdict and '+1.00%' in verdict
