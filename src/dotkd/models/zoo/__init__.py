"""Network families of the zoo, one file each; :mod:`dotkd.models.registry` gives them their names.

Attribute names are those of the published code, because they are the keys of published checkpoints.
"""
