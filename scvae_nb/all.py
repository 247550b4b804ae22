"Everything a notebook needs: `from scvae_nb.all import *`."
from .data import *
from .layers import *
from .losses import *
from .likelihoods import *
from .train import *
from .ae import *
from .vae import *
from .vsc import *
from .evaluate import *
from .groups import *
from .report import *
from .linear import *
from .flows import *
from .scvi import *
from .actinn import *
from .beyond import *
