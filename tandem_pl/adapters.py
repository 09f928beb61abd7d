"""`tandem_pl.networks.lora` under the name that older configurations have."""

from .networks.adapters import lora as lora
