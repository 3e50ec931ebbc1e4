# Mixed models of the data of nlme, lme4 and MASS, and simulated ones with singular matrices, fitted by lme4 with three
# optimizers from two starts; the best is kept. Writes DIR/mixed_suite/*.csv and DIR/mixed_suite.json.
# usage: Rscript mixed_suite.R DIR   (takes some minutes)
suppressMessages({library(lme4); library(nlme); library(MASS)})
out <- commandArgs(TRUE)[1]; folder <- file.path(out, "mixed_suite"); dir.create(folder, showWarnings=FALSE)
number <- function(x) { t <- formatC(as.numeric(x), digits=15, format="g"); ifelse(grepl("NA|NaN|Inf", t), "null", trimws(t)) }
array <- function(x) paste0("[", paste(number(x), collapse=", "), "]")
text <- function(x) paste0("[", paste(sprintf('"%s"', as.character(x)), collapse=", "), "]")
quiet <- list(check.conv.singular="ignore", check.conv.grad="ignore", check.conv.hess="ignore", check.scaleX="ignore",
              check.nobs.vs.nRE="ignore", check.nobs.vs.nlev="ignore", check.nobs.vs.rankZ="ignore")
control <- function(...) do.call(lmerControl, c(list(...), quiet))
controls <- list(
  nloptwrap = control(optimizer="nloptwrap", optCtrl=list(xtol_abs=1e-12, ftol_abs=1e-13, maxeval=1e5)),
  bobyqa = control(optimizer="bobyqa", optCtrl=list(rhobeg=0.1, rhoend=1e-10, maxfun=1e5)),
  Nelder_Mead = control(optimizer="Nelder_Mead", optCtrl=list(FtolAbs=1e-13, FtolRel=1e-16, XtolRel=1e-10, maxfun=2e4)))
rows <- list()
written <- character()
add <- function(name, data, formula, method="REML") {
  table <- as.character(substitute(data))
  used <- intersect(names(data), all.vars(as.formula(formula)))
  frame <- as.data.frame(data)
  for (v in names(frame)) if (is.factor(frame[[v]])) frame[[v]] <- factor(as.character(frame[[v]]))
  keep[[table]] <<- union(keep[[table]], used); frames[[table]] <<- frame
  best <- NULL; by <- ""
  for (optimizer in names(controls)) {
    fit <- try(suppressWarnings(suppressMessages(lmer(as.formula(formula), frame, REML=method == "REML", control=controls[[optimizer]]))), silent=TRUE)
    if (inherits(fit, "try-error")) next
    again <- try(suppressWarnings(suppressMessages(lmer(as.formula(formula), frame, REML=method == "REML", control=controls[["bobyqa"]],
                                                       start=getME(fit, "theta")))), silent=TRUE)
    for (one in list(fit, again)) if (!inherits(one, "try-error") && (is.null(best) || as.numeric(logLik(one)) > as.numeric(logLik(best)))) {
      best <- one; by <- optimizer }
  }
  if (is.null(best)) { cat(name, "no fit\n"); return(invisible()) }
  vc <- as.data.frame(VarCorr(best))
  rows[[length(rows) + 1]] <<- sprintf(
    '  {"name": "%s", "data": "%s", "formula": "%s", "method": "%s", "optimizer": "%s", "singular": %s, "factors": %s, "loglik": %s, "residual": %s, "terms": %s, "vcov": %s, "coef": %s, "beta": %s, "beta_se": %s}',
    name, table, formula, method, by, tolower(isSingular(best, tol=1e-5)),
    text(used[sapply(frame[used], is.factor)]), number(logLik(best)), number(sigma(best)^2),
    text(paste0(vc$grp, ":", ifelse(is.na(vc$var1), "", vc$var1), ifelse(is.na(vc$var2), "", paste0("~", vc$var2)))),
    array(vc$vcov), text(names(fixef(best))), array(fixef(best)), array(sqrt(diag(as.matrix(vcov(best))))))
  cat(sprintf("%-28s %.8f %s %s\n", name, as.numeric(logLik(best)), by, isSingular(best, tol=1e-5)))
}
keep <- list(); frames <- list()

# --- lme4
sleepstudy$Days2 <- sleepstudy$Days^2 / 9
sleepstudy$Late <- factor(ifelse(sleepstudy$Days > 4, "yes", "no"))
add("sleepstudy", sleepstudy, "Reaction ~ Days + (Days | Subject)")
add("sleepstudy_ml", sleepstudy, "Reaction ~ Days + (Days | Subject)", "ML")
add("sleepstudy_independent", sleepstudy, "Reaction ~ Days + (Days || Subject)")
add("sleepstudy_no_mean", sleepstudy, "Reaction ~ 0 + Days + (Days | Subject)")
add("sleepstudy_no_mean_ml", sleepstudy, "Reaction ~ 0 + Days + (Days | Subject)", "ML")
add("sleepstudy_no_slope", sleepstudy, "Reaction ~ 1 + (Days | Subject)")
add("sleepstudy_nothing", sleepstudy, "Reaction ~ 0 + (Days | Subject)")
add("sleepstudy_quadratic", sleepstudy, "Reaction ~ Days + Days2 + (Days + Days2 | Subject)")
add("sleepstudy_quadratic_no_mean", sleepstudy, "Reaction ~ 0 + Days + (Days + Days2 | Subject)")
add("sleepstudy_late", sleepstudy, "Reaction ~ Days * Late + (Days * Late | Subject)")
add("dyestuff", Dyestuff, "Yield ~ 1 + (1 | Batch)")
add("dyestuff2", Dyestuff2, "Yield ~ 1 + (1 | Batch)")
add("penicillin", Penicillin, "diameter ~ 1 + (1 | plate) + (1 | sample)")
add("pastes", Pastes, "strength ~ 1 + (1 | batch) + (1 | sample)")
add("pastes_nested", Pastes, "strength ~ 1 + (1 | batch/cask)")
cake$temp <- as.numeric(as.character(cake$temperature)) / 100
add("cake", cake, "angle ~ recipe * temperature + (1 | replicate) + (1 | recipe:replicate)")
add("cake_slopes", cake, "angle ~ recipe + temp + (temp | replicate)")
add("cake_recipe", cake, "angle ~ recipe + temp + (recipe | replicate)")
add("cake_recipe_bars", cake, "angle ~ recipe + temp + (0 + recipe | replicate) + (0 + temp | replicate)")
# --- nlme
Orthodont <- as.data.frame(Orthodont); Orthodont$age <- Orthodont$age - 11
add("orthodont", Orthodont, "distance ~ age * Sex + (age | Subject)")
add("orthodont_sex", Orthodont, "distance ~ age + (1 | Subject) + (0 + Sex | Subject)")
add("orthodont_by_sex", Orthodont, "distance ~ age * Sex + (0 + Sex + age | Subject)")
add("oxboys", Oxboys, "height ~ age + (age | Subject)")
Oxboys$age2 <- Oxboys$age^2
add("oxboys_quadratic", Oxboys, "height ~ age + age2 + (age + age2 | Subject)")
add("bodyweight", BodyWeight, "weight ~ Time * Diet + (Time | Rat)")
add("machines", Machines, "score ~ Machine + (Machine | Worker)")
add("machines_cells", Machines, "score ~ Machine + (0 + Machine | Worker)")
add("machines_nested", Machines, "score ~ Machine + (1 | Worker/Machine)")
add("rail", Rail, "travel ~ 1 + (1 | Rail)")
add("ergostool", ergoStool, "effort ~ Type + (1 | Subject)")
add("oats", Oats, "yield ~ nitro + Variety + (1 | Block/Variety)")
add("oats_slopes", Oats, "yield ~ nitro + Variety + (nitro | Block) + (1 | Block:Variety)")
add("oats_variety", Oats, "yield ~ nitro + Variety + (0 + Variety | Block)")
Pixel$day2 <- Pixel$day^2
add("pixel", Pixel, "pixel ~ day + day2 + (day | Dog) + (1 | Dog:Side)")
Wafer$cosine <- cos(4.5679 * Wafer$voltage); Wafer$sine <- sin(4.5679 * Wafer$voltage); Wafer$voltage2 <- Wafer$voltage^2
add("wafer", Wafer, "current ~ voltage + voltage2 + (voltage | Wafer) + (voltage | Wafer:Site)")
add("wafer_full", Wafer, "current ~ voltage + voltage2 + (voltage + voltage2 | Wafer) + (voltage + voltage2 | Wafer:Site)")
Fatigue$cycles2 <- Fatigue$cycles^2
add("fatigue", Fatigue, "relLength ~ cycles + cycles2 + (cycles + cycles2 | Path)")
Dialyzer$pressure2 <- Dialyzer$pressure^2; Dialyzer$pressure3 <- Dialyzer$pressure^3
add("dialyzer", Dialyzer, "rate ~ (pressure + pressure2 + pressure3) * QB + (pressure + pressure2 | Subject)")
add("glucose2", Glucose2, "glucose ~ Time + (1 | Subject/Date)")
add("glucose2_slopes", Glucose2, "glucose ~ Time + (Time | Subject) + (Time | Subject:Date)")
add("gasoline", Gasoline, "yield ~ endpoint + vapor + (1 | Sample)")
add("gasoline_slopes", Gasoline, "yield ~ endpoint + (endpoint | Sample)")
Loblolly <- as.data.frame(Loblolly); Loblolly$root <- sqrt(Loblolly$age)
add("loblolly", Loblolly, "height ~ age + root + (age | Seed)")
Orange <- as.data.frame(Orange)
add("orange", Orange, "circumference ~ age + (age | Tree)")
Ovary$sine <- sin(2 * pi * Ovary$Time); Ovary$cosine <- cos(2 * pi * Ovary$Time)
add("ovary", Ovary, "follicles ~ sine + cosine + (sine + cosine | Mare)")
add("oxide", Oxide, "Thickness ~ Source + (1 | Lot/Wafer)")
add("oxide_source", Oxide, "Thickness ~ Source + (0 + Source | Lot) + (1 | Lot:Wafer)")
add("ratpup", RatPupWeight, "weight ~ Treatment * sex + Lsize + (1 | Litter)")
add("ratpup_sex", RatPupWeight, "weight ~ Treatment + sex + Lsize + (sex | Litter)")
Relaxin$logconc <- log(Relaxin$conc + 0.1)
add("relaxin", Relaxin, "cAMP ~ logconc + (logconc | Run)")
Soybean$logweight <- log(Soybean$weight); Soybean$week <- Soybean$Time / 7; Soybean$week2 <- Soybean$week^2
add("soybean", Soybean, "logweight ~ week + week2 + Variety + Year + (week + week2 | Plot)")
add("spruce", Spruce, "logSize ~ days + plot + (days | Tree)")
Theoph <- as.data.frame(Theoph); Theoph$root <- sqrt(Theoph$Time)
add("theoph", Theoph, "conc ~ Time + root + (Time + root | Subject)")
add("wheat", Wheat, "DryMatter ~ Moisture * fertilizer + (fertilizer | Tray)")
add("wheat2", Wheat2, "yield ~ variety + (1 | Block)")
keep$Wheat2 <- c(keep$Wheat2, "latitude", "longitude")
add("assay", Assay, "logDens ~ sample * dilut + (1 | Block) + (1 | Block:sample) + (1 | Block:dilut)")
add("alfalfa", Alfalfa, "Yield ~ Date * Variety + (1 | Block/Variety)")
CO2 <- as.data.frame(CO2); CO2$logconc <- log(CO2$conc)
add("co2", CO2, "uptake ~ logconc * Treatment + Type + (logconc | Plant)")
ChickWeight <- as.data.frame(ChickWeight); ChickWeight$Time2 <- ChickWeight$Time^2 / 20
add("chickweight", ChickWeight, "weight ~ Time * Diet + (Time | Chick)")
add("chickweight_quadratic", ChickWeight, "weight ~ Time * Diet + Time2 + (Time + Time2 | Chick)")
Earthquake$logaccel <- log(Earthquake$accel); Earthquake$logdistance <- log(Earthquake$distance)
add("earthquake", Earthquake, "logaccel ~ Richter + logdistance + soil + (logdistance | Quake)")
Indometh <- as.data.frame(Indometh); Indometh$logconc <- log(Indometh$conc)
add("indometh", Indometh, "logconc ~ time + (time | Subject)")
add("igf", IGF, "conc ~ age + (age | Lot)")
add("meat", Meat, "score ~ Storage + (1 | Block) + (1 | Pair)")
add("milk", Milk, "protein ~ Time * Diet + (Time | Cow)")
Muscle$logconc <- log(Muscle$conc)
add("muscle", Muscle, "length ~ logconc + (logconc | Strip)")
PBG$logdose <- log(PBG$dose)
add("pbg", PBG, "deltaBP ~ logdose * Treatment + (logdose | Rabbit)")
add("pbg_crossed", PBG, "deltaBP ~ logdose * Treatment + (Treatment | Rabbit) + (1 | Run)")
Tetracycline1$logconc <- log(Tetracycline1$conc)
add("tetracycline1", Tetracycline1, "logconc ~ Time * Formulation + (Formulation | Subject)")
# --- MASS
add("petrol", petrol, "Y ~ EP + SG + VP + V10 + (EP | No)")
add("nlschools", nlschools, "lang ~ IQ + SES + COMB + (IQ | class)")
add("sitka", Sitka, "size ~ Time * treat + (Time | tree)")
Sitka89$Time100 <- Sitka89$Time / 100
add("sitka89", Sitka89, "size ~ Time100 * treat + (Time100 | tree)")
add("genotype", genotype, "Wt ~ Litter + (1 | Mother) + (1 | Litter:Mother)")
add("npk", npk, "yield ~ N + P + K + (1 | block)")
immer$mean <- (immer$Y1 + immer$Y2) / 2
add("immer", immer, "mean ~ Var + (1 | Loc)")
add("coop", coop, "Conc ~ Spc + (Spc | Lab)")
add("coop_batches", coop, "Conc ~ Spc + (1 | Lab) + (1 | Lab:Spc) + (1 | Lab:Spc:Bat)")

# --- simulated: groups too few, slopes too many, units too wild, means too far away
simulate <- function(seed, groups, size, columns, root, fixed=TRUE, unit=1, noise=1, mean=0) {
  set.seed(seed)
  g <- factor(sprintf("g%02d", rep(seq_len(groups), each=size)))
  X <- matrix(rnorm(groups * size * columns), ncol=columns)
  u <- mean + matrix(rnorm(groups * ncol(root)), groups) %*% t(root)
  Z <- cbind(1, X)
  y <- drop(Z %*% seq(1, by=-0.3, length.out=columns + 1)) * fixed + rowSums(Z * u[g, ]) + noise * rnorm(nrow(Z))
  X <- sweep(X, 2, unit^(seq_len(columns) - 1), "*")
  colnames(X) <- paste0("x", seq_len(columns))
  data.frame(g, signif(X, 8), y=signif(y, 10))
}
few <- simulate(1, 5, 8, 2, diag(c(1, 0.3, 0.1)))
add("few_groups", few, "y ~ x1 + x2 + (x1 + x2 | g)")
add("few_groups_ml", few, "y ~ x1 + x2 + (x1 + x2 | g)", "ML")
three <- simulate(2, 4, 10, 3, diag(c(1, 0.5, 0.5, 0.2)))
add("four_groups_of_four_effects", three, "y ~ x1 + x2 + x3 + (x1 + x2 + x3 | g)")
one <- simulate(3, 15, 6, 3, matrix(c(1, 0.5, -0.5, 0.2), 4))
add("rank_one", one, "y ~ x1 + x2 + x3 + (x1 + x2 + x3 | g)")
two <- simulate(4, 20, 8, 4, matrix(c(1, 0.5, -0.5, 0.2, 0.1, 0, 0.4, 0.3, -0.3, 0.5), 5))
add("rank_two", two, "y ~ x1 + x2 + x3 + x4 + (x1 + x2 + x3 + x4 | g)")
many <- simulate(5, 12, 10, 6, 0.3 * diag(7))
add("six_slopes", many, "y ~ x1 + x2 + x3 + x4 + x5 + x6 + (x1 + x2 + x3 + x4 + x5 + x6 | g)")
none <- simulate(6, 10, 6, 3, 0.01 * diag(4))
add("nothing_varies", none, "y ~ x1 + x2 + x3 + (x1 + x2 + x3 | g)")
slope <- simulate(7, 12, 6, 2, diag(c(0, 1, 1)))
add("no_intercept_variance", slope, "y ~ x1 + x2 + (x1 + x2 | g)")
add("no_intercept_variance_bars", slope, "y ~ x1 + x2 + (1 | g) + (0 + x1 + x2 | g)")
wild <- simulate(8, 10, 7, 3, matrix(c(1, 0.5, -0.5, 0.2), 4), unit=1e3)
add("wild_units", wild, "y ~ x1 + x2 + x3 + (x1 + x2 + x3 | g)")
tiny <- simulate(9, 8, 6, 2, matrix(c(1, 0.5, -0.5), 3), unit=1e-4)
add("wild_units_small", tiny, "y ~ x1 + x2 + (x1 + x2 | g)")
away <- simulate(10, 12, 8, 3, 0.5 * diag(4), mean=10)
add("means_away", away, "y ~ 0 + x1 + (x1 + x2 + x3 | g)")
add("means_far_away", away, "y ~ 0 + (x1 + x2 + x3 | g)")
far <- simulate(11, 8, 6, 2, matrix(c(0.5, 0.2, 0.1), 3), mean=100)
add("means_very_far_away", far, "y ~ 0 + x2 + (x1 + x2 | g)")
quiet_rank <- simulate(12, 10, 8, 3, matrix(c(1, 0.5, -0.5, 0.2), 4), noise=0.05)
add("rank_one_little_noise", quiet_rank, "y ~ x1 + x2 + x3 + (x1 + x2 + x3 | g)")
noisy <- simulate(13, 10, 6, 3, matrix(c(1, 0.5, -0.5, 0.2), 4), noise=5)
add("rank_one_much_noise", noisy, "y ~ x1 + x2 + x3 + (x1 + x2 + x3 | g)")
crossed <- simulate(14, 8, 9, 2, matrix(c(1, 0.5, -0.5), 3)); crossed$h <- factor(rep(sprintf("h%d", 1:9), 8))
add("crossed_slopes", crossed, "y ~ x1 + x2 + (x1 + x2 | g) + (x1 + x2 | h)")
cells <- simulate(15, 10, 9, 1, diag(2)); cells$f <- factor(rep(c("a", "b", "c"), 30))
cells$y <- signif(cells$y + rnorm(10)[cells$g] * c(a=1, b=-1, c=0.5)[as.character(cells$f)], 10)
add("cells_rank_two", cells, "y ~ f + x1 + (0 + f | g)")
add("cells_treatment", cells, "y ~ f + x1 + (f + x1 | g)")
given <- function(file) { d <- read.csv(file); d[] <- lapply(d, function(v) if (is.character(v)) factor(v) else v); d }
slopes_singular <- given(file.path(folder, "slopes_singular.csv"))
add("slopes_singular", slopes_singular, "y ~ c1 + c2 + c3 + c4 + c5 + (c1 + c2 + c3 + c4 | subject)")
factor_double_bar <- given(file.path(folder, "factor_double_bar.csv"))
add("factor_cells", factor_double_bar, "y ~ treatment + (0 + treatment | Subject)")
add("factor_double_bar", factor_double_bar, "y ~ treatment + (treatment || Subject)")

for (table in names(keep)) if (!table %in% c("slopes_singular", "factor_double_bar")) {
  frame <- frames[[table]][keep[[table]]]
  for (v in names(frame)) if (is.numeric(frame[[v]])) frame[[v]] <- formatC(frame[[v]], digits=15, format="g", width=1)
  write.csv(frame, file.path(folder, paste0(table, ".csv")), row.names=FALSE, quote=FALSE)
}
head <- sprintf('{"software": "lme4 %s, nlme %s, MASS %s, R %s.%s", "cases": [', packageVersion("lme4"), packageVersion("nlme"),
                packageVersion("MASS"), R.version$major, R.version$minor)
writeLines(c(head, paste(rows, collapse=",\n"), "]}"), file.path(out, "mixed_suite.json"))
