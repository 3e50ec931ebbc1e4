"""A quantitative geneticist with a pedigree, records and markers: heritability, breeding values, a scan."""

import pandas as pd

import pm_fastlmm as flmm

pedigree = pd.read_csv("pedigree.csv", dtype=str)
records = pd.read_csv("records.csv", dtype={"animal": str})
genotypes = pd.read_csv("genotypes.csv", dtype={"animal": str}).set_index("animal")
A = flmm.covariance.pedigree(pedigree["animal"], pedigree["sire"], pedigree["dam"])
design = flmm.Design.from_formula("weight ~ sex + year", records, K=A, individual="animal")
fit = flmm.reml(design.spectrum(), design.y)
h2 = fit.function(lambda v: v["sigma2_g"] / (v["sigma2_g"] + v["sigma2_e"]))
young = fit.effects().loc[lambda t: ~t.index.isin(records["animal"])].nlargest(5, "blup")
G = flmm.covariance.markers(genotypes)
typed = records[records["animal"].isin(genotypes.index)]
design = flmm.Design.from_formula("weight ~ sex + year", typed, K=G, individual="animal")
markers = genotypes.loc[typed["animal"]].set_index(typed.index)
scan = flmm.scan(design.spectrum(), design.y, markers, progressbar=False)
flmm.plots.plot_manhattan(scan).figure.savefig("scan.png")
flmm.plots.plot_effects(fit).figure.savefig("animals.png")
