"""An ecologist who knows lme4, with a messy table: does grazing change the biomass of meadows?"""

import pandas as pd

import pm_fastlmm as flmm

table = pd.read_csv("meadows.csv", na_values=["-", "lost"])
table = table.rename(columns=lambda name: name.strip().replace(" ", "_"))
table["Site"] = table["Site"].str.strip().str.capitalize()
fit = flmm.find_reml("Biomass ~ Grazing * Rain + (Rain | Site) + (1 | Site:Plot)", table, progressbar=False)
simpler = flmm.find_reml("Biomass ~ Grazing * Rain + (1 | Site) + (1 | Site:Plot)", table, progressbar=False)
print(fit)
tests = fit.anova()
print(flmm.compare_fits(simpler, fit))
sites = fit.effects("Site")
new = pd.DataFrame({"Grazing": ["no", "yes"], "Rain": 1.0})
expected = fit.predict(data=new, effects="population")
axes = flmm.plots.plot_diagnostics(fit)
axes.flat[0].figure.savefig("diagnostics.png")
flmm.plots.plot_effects(fit, "Site").flat[0].figure.savefig("sites.png")
