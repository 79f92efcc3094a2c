"""Colours of the pictures."""

# Okabe and Ito (2008), without black and yellow, which vanish on one of the two backgrounds.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
VERMILLION, SKY, GREY = "#D55E00", "#56B4E9", "#808080"
#: Not of theirs.
PURPLE = "#8F63B8"

#: Curves beside each other, whatever they are.
CURVES = (ORANGE, BLUE, GREEN, PINK, VERMILLION, SKY)
BASIS_COLORS = {"spline": BLUE, "relu": VERMILLION, "mlp": GREEN}
