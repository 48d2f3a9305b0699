"""Portraits of persons who do not exist: a blendshape head, painted skin, a sheet of hair, and a small renderer in NumPy.

``looks`` says who is drawn and how (``look_of``, ``View``), ``skin`` paints, ``hair`` grows, ``raster`` finds what is visible and
``render`` lights it. ``make_basis`` makes ``basis.npz`` from MakeHuman's CC0 data.
"""
