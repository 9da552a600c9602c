"""Healing: training, search and choice of what to train, until a quantized model is good again."""

from sw.wasq.healing.heal import METHODS, heal_
from sw.wasq.healing.options import Healed, HealingError, HealOptions
from sw.wasq.healing.samples import Samples
from sw.wasq.healing.settings import SETTINGS, check_settings
from sw.wasq.healing.world import World, local_device, processes

__all__ = [
    "METHODS",
    "SETTINGS",
    "HealOptions",
    "Healed",
    "HealingError",
    "Samples",
    "World",
    "check_settings",
    "heal_",
    "local_device",
    "processes",
]
