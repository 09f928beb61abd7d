"""`tandem_pl.networks.timm_network` under the name that older configurations have."""

from .networks.timm_networks import timm_network as timm_network
