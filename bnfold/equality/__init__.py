"""How equality of two models is shown: certificate, site check, end to end, each independent of the code that folds."""
