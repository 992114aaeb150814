"""One finished run as one HTML file that needs no network and no JavaScript.

``content`` gathers what is said, ``samples`` the reasons of single samples, ``figures`` draws, ``page.html`` is the
template. It stands on a run's folder and the detector in it, and computes no score by itself.
"""
