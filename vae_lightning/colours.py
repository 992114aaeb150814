"""The colours of all pictures: Okabe and Ito's, which the colour-blind can tell apart, and signs that help."""

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # normal samples are blue, anomalies orange
AMBER, SKY, YELLOW, BLACK = "#E69F00", "#56B4E9", "#F0E442", "#000000"
GREY, WINE = "#999999", "#882255"  # not theirs, and apart from them

# of lines and points side by side: more than seven take another line or sign
COLOURS = BLUE, ORANGE, GREEN, PINK, AMBER, SKY, BLACK
LINES = "-", "--", ":", "-."
MARKERS = "os^Dv<>"

# of the classes of a data set, ten in most: neighbours differ in sign, too
CLASS_COLOURS = BLUE, AMBER, GREEN, PINK, SKY, ORANGE, YELLOW, BLACK, GREY, WINE
CLASS_MARKERS = "o^sDv"
