"""Portraits of persons who do not exist: a blendshape head, painted skin, a sheet of hair, a small renderer in NumPy.

``looks`` says who is drawn and how (``look_of``, ``View``), ``skin`` paints, ``hair`` grows, ``camera`` poses
and frames, ``raster`` finds what is visible, ``shade`` lights it, ``render`` puts the picture together.
``make_basis`` makes ``basis.npz`` from MakeHuman's CC0 data.
"""
